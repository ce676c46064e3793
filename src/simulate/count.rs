//! What a fleet counts of itself, and the words for it.

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Devices that have booted.
    Booted,
    /// KEY_IDS sent: at boot, or because somebody asked.
    KeyIds,
    /// Telemetry sent.
    Telemetry,
    /// Echo requests answered.
    EchoAnswers,
    /// Calls answered, also those that were refused.
    CallAnswers,
    /// Pieces of data that belong to calls, and acknowledgements of such pieces, sent.
    CallData,
    /// Calls carried out, those of the Bluetooth devices of relays among them: refused ones are not.
    Executed,
    /// Those whose request id had been carried out before: more than none if somebody sends a call twice.
    ExecutedAgain,
    /// Calls lost because too many waited for one that moves data.
    CallsLost,
    /// Packets that relays were given for their Bluetooth devices.
    Forwarded,
    /// Ends of connections that relays told of.
    Terminations,
    /// Containers sent by relays.
    Containers,
    /// Packets of other devices in those containers that the gateway should accept: of others it reads none.
    Entries,
    /// Datagrams of devices that the kernel did not take, so that they never left.
    SendFailures,
    /// Datagrams of devices that were lost on the way to the gateway.
    Lost,
    /// Copies that the network made of datagrams.
    Copies,
    /// Datagrams and copies that were held back on the way.
    HeldBack,
    /// Those that were not, because too many were at once.
    NotHeld,
    /// Datagrams that left for the gateway and that it should count.
    ToAccept,
    /// Copies that left for the gateway and that it should see through.
    ToDuplicate,
    /// Datagrams that left for the gateway too late for it to tell them from replays.
    TooLate,
    /// Datagrams sent more than [`LATE`](super::stats::LATE) after they were due.
    Late,
    /// Datagrams sent that asked for an acknowledgement.
    AcksAsked,
    /// Acknowledgements of a packet that had asked.
    Acks,
    /// Acknowledgements of nothing that was asked, or too late to tell.
    AcksUnmatched,
    /// Requests for KEY_IDS.
    KeyQuestions,
    /// Downlinks with a device key id that is not the device's.
    UnknownKeys,
    /// Authentic downlinks the simulator has no answer for.
    Unsupported,
    /// Downlinks lost on the way to the device.
    LostDownlinks,
    /// Downlinks to a port that the NAT no longer keeps for the device.
    NatMissed,
    /// Downlinks that arrived while the device was asleep.
    Missed,
    /// Downlinks that did not authenticate or were for somebody else.
    Refused,
    /// Datagrams too short to be a downlink.
    Short,
    /// Devices with another port because the NAT in front changed its mapping.
    Rebinds,
    /// Devices with another port because they were silent for longer than the NAT keeps a mapping.
    NatExpired,
    /// Sockets reopened by a device that was not answered.
    Reopened,
    /// Reports of the network that nobody listens at the gateway's address.
    Unreachable,
}

impl Count {
    /// Every count, in the order of the summary.
    pub const ALL: [Self; 37] = [
        Self::Booted,
        Self::KeyIds,
        Self::Telemetry,
        Self::EchoAnswers,
        Self::CallAnswers,
        Self::CallData,
        Self::Executed,
        Self::ExecutedAgain,
        Self::CallsLost,
        Self::Forwarded,
        Self::Terminations,
        Self::Containers,
        Self::Entries,
        Self::SendFailures,
        Self::Lost,
        Self::Copies,
        Self::HeldBack,
        Self::NotHeld,
        Self::ToAccept,
        Self::ToDuplicate,
        Self::TooLate,
        Self::Late,
        Self::AcksAsked,
        Self::Acks,
        Self::AcksUnmatched,
        Self::KeyQuestions,
        Self::UnknownKeys,
        Self::Unsupported,
        Self::LostDownlinks,
        Self::NatMissed,
        Self::Missed,
        Self::Refused,
        Self::Short,
        Self::Rebinds,
        Self::NatExpired,
        Self::Reopened,
        Self::Unreachable,
    ];

    /// Kinds of uplinks: each that was sent is counted in one of them.
    pub(super) const UPLINKS: [Self; 7] = [
        Self::KeyIds,
        Self::Telemetry,
        Self::EchoAnswers,
        Self::CallAnswers,
        Self::CallData,
        Self::Terminations,
        Self::Containers,
    ];

    /// The words of the summary.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Booted => "devices booted",
            Self::KeyIds => "key ids sent",
            Self::Telemetry => "telemetry sent",
            Self::EchoAnswers => "echo requests answered",
            Self::CallAnswers => "calls answered",
            Self::CallData => "data of calls sent",
            Self::Executed => "calls carried out",
            Self::ExecutedAgain => "calls carried out again",
            Self::CallsLost => "calls lost for want of room",
            Self::Forwarded => "packets passed on to Bluetooth devices",
            Self::Terminations => "ends of connections told",
            Self::Containers => "containers sent",
            Self::Entries => "container entries to be counted",
            Self::SendFailures => "sends failed",
            Self::Lost => "lost on the way",
            Self::Copies => "copies made on the way",
            Self::HeldBack => "held back on the way",
            Self::NotHeld => "not held back for want of room",
            Self::ToAccept => "to be accepted by the gateway",
            Self::ToDuplicate => "to be seen as duplicates",
            Self::TooLate => "to be refused as too old",
            Self::Late => "sent more than 100 ms late",
            Self::AcksAsked => "acknowledgements asked for",
            Self::Acks => "acknowledgements received",
            Self::AcksUnmatched => "acknowledgements of nothing asked",
            Self::KeyQuestions => "requests for key ids",
            Self::UnknownKeys => "downlinks with an unknown key id",
            Self::Unsupported => "downlinks of other types",
            Self::LostDownlinks => "downlinks lost on the way",
            Self::NatMissed => "downlinks dropped by the NAT",
            Self::Missed => "downlinks missed asleep",
            Self::Refused => "downlinks refused",
            Self::Short => "downlinks too short",
            Self::Rebinds => "NAT rebinds",
            Self::NatExpired => "NAT mappings expired",
            Self::Reopened => "sockets reopened",
            Self::Unreachable => "gateway unreachable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_indexed_by_position_and_their_words_differ() {
        for (index, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, index);
            assert!(Count::ALL[..index].iter().all(|other| other.label() != count.label()));
        }
    }
}
