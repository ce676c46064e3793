//! Operations on keys between devices and the gateway.

use super::KEY;
use super::operation::Operation;
use super::parameters::device_id;
use crate::api::device_keys::{Derived, Key, Keys, Meant, OfDevice};

/// Of what is told of one device.
const FROM: &str = "With a `securityState`, the answer of the device to the call security_state, that is checked and used: it \
     has to name this gateway's public key and to be proved; it is not kept. Without one, the key in force is told. Only for \
     devices of the caller's, who must be allowed to write. Who may not write for all organisations is told a key that was made \
     of the device's public key only if the device has proved it, by the hardware that its `mcuId` says. A 422 if nothing is \
     known or proved.";

pub(super) fn operations() -> Vec<Operation> {
    [gateway(), device()].into_iter().flatten().collect()
}

fn gateway() -> Vec<Operation> {
    vec![
        Operation::get("/key/publicKey", "getPublicKey", KEY, "Read the Curve25519 public key of the gateway.")
            .answers::<Key>(200, "32 bytes in base64."),
        Operation::post::<Key>("/key/sharedSecret", "getSharedSecret", KEY, "Compute the shared secret for a device public key.")
            .about(
                "Only with credentials that may write for all organisations: whoever has seen the public key of a device would \
                 have its secret.",
            )
            .answers::<Key>(200, "The shared secret.")
            .refuses(&[403, 422]),
    ]
}

fn device() -> Vec<Operation> {
    vec![
        Operation::post::<OfDevice>(
            "/key/sharedSecret/device",
            "getDeviceSharedSecret",
            KEY,
            "Read the shared secret of a device.",
        )
        .about(FROM)
        .answers::<Key>(200, "The shared secret.")
        .refuses(&[403, 404, 422]),
        Operation::post::<Derived>(
            "/key/derived/device",
            "deriveDeviceKey",
            KEY,
            "Derive the device-level key of one interface, for the present day of GPS time.",
        )
        .about(FROM)
        .answers::<Key>(200, "The derived key.")
        .refuses(&[403, 404, 422]),
        Operation::get(
            "/device/deviceId/{deviceId}/key",
            "getDeviceKey",
            KEY,
            "Read what is known of the keys of a device. No key is in it.",
        )
        .extension()
        .parameter(device_id())
        .answers::<Keys>(200, "What is known.")
        .refuses(&[404]),
        Operation::post_perhaps::<Meant>(
            "/device/deviceId/{deviceId}/key/confirm",
            "confirmDeviceKey",
            KEY,
            "Put the key in force that waits for confirmation.",
        )
        .about(
            "Without a body, whichever it is. A 404 if none waits, and a 409 if another one waits than the body says.",
        )
        .extension()
        .parameter(device_id())
        .answers::<Keys>(200, "What is known from now on.")
        .refuses(&[403, 404, 409, 422]),
    ]
}
