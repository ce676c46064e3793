//! x

/// What may move a route, of what authenticates (rule R1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutePolicy {
    /// The newest proved packet, at either level.
    #[default]
    Newest,
    /// As `Newest`, but a network-level packet never moves the route of a device whose device key is known.
    Strict,
}

/// What becomes of authentic packets of devices that are not registered (rule R9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unregistered {
    /// Served like any other, in a bounded number of records.
    #[default]
    Allow,
    /// Dropped.
    Deny,
}
