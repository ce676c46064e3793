//! What of a message goes over the air.

use std::sync::Arc;

use crate::downlink::intent::{Call, DataPhase, Intent};
use crate::records::message::{Message, MessageCall, NewMessage};
use crate::wire::rpc::Command;

/// Bytes of data that are kept of what a device sends for one call.
const RECEIVED: usize = 1 << 20;

/// The intent of an accepted message, `data` being what follows it.
pub(super) fn of(message: &Message, data: Option<Arc<[u8]>>) -> Intent {
    Intent {
        message: message.n,
        packet_type: message.packet_type,
        sealing: message.sealing,
        payload: plaintext(message.call.as_ref(), &message.payload),
        call: message.call.map(|call| Call {
            request_id: call.request_id,
            command_id: call.command_id,
            data: data_phase(&call, data),
        }),
        expires_at: (message.send_wait_timeout_ms > 0).then_some(message.expires_at.0),
        retry: message.retry,
        if_route: message.if_route,
    }
}

/// Bytes of the plaintext of a message that is to be made.
pub(super) fn len(new: &NewMessage) -> usize {
    plaintext(new.call.as_ref(), &new.payload).len()
}

fn plaintext(call: Option<&MessageCall>, payload: &Arc<[u8]>) -> Arc<[u8]> {
    let Some(call) = call else { return Arc::clone(payload) };
    let MessageCall { request_id, command_id, data } = *call;
    let mut whole = Vec::with_capacity(11 + payload.len());
    Command { request_id, command_id, data, parameters: payload }.encode(&mut whole);
    whole.into()
}

fn data_phase(call: &MessageCall, data: Option<Arc<[u8]>>) -> Option<DataPhase> {
    let header = call.data?;
    Some(match data {
        Some(data) => DataPhase::Towards { data, ack_period: header.rx_ack_period },
        None => DataPhase::From { limit: RECEIVED },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::dispatch::testing::{call, message};
    use crate::status::Time;
    use crate::wire::rpc::DataHeader;

    #[test]
    fn the_header_of_a_call_stands_before_its_parameters() {
        let call = MessageCall { request_id: 1, command_id: 2, data: Some(DataHeader { size: 3, rx_ack_period: 4 }) };
        let intent = of(&Message { call: Some(call), payload: b"xy".as_slice().into(), ..message() }, None);
        assert_eq!(&*intent.payload, [1, 0, 0, 0, 2, 0, 3, 0, 0, 0, 4, b'x', b'y']);
        assert!(matches!(intent.call.unwrap().data, Some(DataPhase::From { limit: RECEIVED })));
        let plain = of(&Message { call: None, payload: b"xy".as_slice().into(), ..message() }, None);
        assert_eq!((&*plain.payload, plain.call.is_none()), (&b"xy"[..], true));
    }

    #[test]
    fn data_goes_to_the_device_where_there_is_some() {
        let header = DataHeader { size: 3, rx_ack_period: 4 };
        let moving = Message { call: Some(MessageCall { data: Some(header), ..call() }), ..message() };
        let data: Arc<[u8]> = b"abc".as_slice().into();
        let Some(DataPhase::Towards { data, ack_period: 4 }) = of(&moving, Some(data)).call.unwrap().data else {
            panic!()
        };
        assert_eq!(&*data, b"abc");
    }

    #[test]
    fn what_is_sent_at_once_never_waits() {
        let expires_at = Time(Timestamp(9));
        let expiry =
            |send_wait_timeout_ms| of(&Message { send_wait_timeout_ms, expires_at, ..message() }, None).expires_at;
        assert_eq!((expiry(0), expiry(1)), (None, Some(Timestamp(9))));
    }
}
