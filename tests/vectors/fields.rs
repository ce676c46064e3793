//! JSON objects that are taken apart field by field, so that a field nothing looked at is noticed.

use lastroute::auth::keys::RootKey;
use lastroute::id::{DeviceId, KeyId};
use serde_json::Value;

/// A JSON object whose fields are taken out one by one.
pub(crate) struct Fields(pub(crate) serde_json::Map<String, Value>);

impl Fields {
    pub(crate) fn of(value: &Value) -> Self {
        Self(value.as_object().expect("an object").clone())
    }

    pub(crate) fn optional(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    pub(crate) fn take(&mut self, key: &str) -> Value {
        self.optional(key).unwrap_or_else(|| panic!("no {key} in {:?}", self.0))
    }

    pub(crate) fn text(&mut self, key: &str) -> String {
        self.take(key).as_str().expect(key).to_owned()
    }

    /// The field has this value.
    pub(crate) fn is(&mut self, key: &str, actual: impl Into<Value>) {
        assert_eq!(self.take(key), actual.into(), "{key}");
    }

    /// The field has these bytes.
    pub(crate) fn is_hex(&mut self, key: &str, actual: &[u8]) {
        self.is(key, hex::encode(actual));
    }

    pub(crate) fn bytes(&mut self, key: &str) -> Vec<u8> {
        hex::decode(self.text(key)).expect(key)
    }

    pub(crate) fn array<const N: usize>(&mut self, key: &str) -> [u8; N] {
        self.bytes(key).try_into().expect(key)
    }

    pub(crate) fn number<T: TryFrom<i64>>(&mut self, key: &str) -> T {
        let number = self.take(key).as_i64().expect(key);
        T::try_from(number).unwrap_or_else(|_| panic!("{key} is {number}"))
    }

    pub(crate) fn object(&mut self, key: &str) -> Self {
        Self::of(&self.take(key))
    }

    pub(crate) fn list(&mut self, key: &str) -> Vec<Value> {
        self.take(key).as_array().expect(key).clone()
    }

    pub(crate) fn device_id(&mut self, key: &str) -> DeviceId {
        self.text(key).parse().expect(key)
    }

    pub(crate) fn key_id(&mut self, key: &str) -> KeyId {
        KeyId::new(self.number(key)).expect(key)
    }

    pub(crate) fn root(&mut self, key: &str) -> RootKey {
        RootKey::new(self.array(key))
    }

    /// Leaves out what says nothing about bytes.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.0.remove(*key);
        }
    }

    pub(crate) fn end(self) {
        assert!(self.0.is_empty(), "fields that nothing looked at: {:?}", self.0);
    }
}

pub(crate) fn file(name: &str) -> Fields {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    Fields::of(&serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}
