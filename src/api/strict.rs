//! Bodies taken at their word: an object is an object, each of its names is a text and there once, and an error says where
//! in the body it is. What is too long is refused where it gets too long, before it takes up room.
//!
//! serde alone also takes a list for an object, and the last of several values of a name.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, EnumAccess, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

/// What a body is called where it is no part of it that is meant.
const WHOLE: &str = "the body";

/// Names of one object.
const MAX_NAMES: usize = 10_000;

/// Characters of a place in an error: those of every place in a body that is right, and a name of the client's own.
const MAX_PLACE: usize = 100;

/// How much a body may bring.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Elements of one list.
    pub list: usize,
    /// Elements of all lists and names of all objects.
    pub all: usize,
}

impl Bounds {
    /// Lists of at most `list` elements, and as many of them as there may be in a body.
    pub const fn of_lists(list: usize) -> Self {
        Self { list, all: usize::MAX }
    }
}

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is not what it should be.
    #[error("{0}")]
    Malformed(String),
    /// It has too much of something.
    #[error("{what} has more than {max} entries; send at most {max} at once")]
    TooMany {
        /// The list or object, as the request calls it.
        what: String,
        /// How many it may have.
        max: usize,
    },
}

/// The value that `deserializer` brings, or where it is wrong, and how.
pub(super) fn decode<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
    bounds: Bounds,
) -> Result<T, Unfit> {
    let progress =
        Progress { failed: RefCell::new(None), too_many: Cell::new(None), left: Cell::new(bounds.all), bounds };
    let at = At { place: &Place::Top, progress: &progress };
    T::deserialize(Strict { inner: deserializer, at, object: false }).map_err(|error| {
        let place = progress.failed.take().filter(|place| !place.is_empty());
        match (progress.too_many.get(), place) {
            (Some(max), place) => Unfit::TooMany { what: place.unwrap_or_else(|| WHOLE.to_owned()), max },
            (None, Some(place)) => Unfit::Malformed(format!("{}: {error}", shown(&place))),
            (None, None) => Unfit::Malformed(error.to_string()),
        }
    })
}

/// A place as it stands before what is wrong there, of which an answer is to have room for both.
fn shown(place: &str) -> Cow<'_, str> {
    match place.char_indices().nth(MAX_PLACE) {
        None => place.into(),
        Some((end, _)) => format!("{}...", &place[..end]).into(),
    }
}

/// Where in a body a value is.
enum Place<'p> {
    Top,
    Member(&'p Self, &'p str),
    Element(&'p Self, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Member(Self::Top, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// How far decoding came.
struct Progress {
    /// The place where it failed.
    failed: RefCell<Option<String>>,
    /// The bound that was reached there, if that was why.
    too_many: Cell<Option<usize>>,
    /// How much more of [`Bounds::all`] there may be.
    left: Cell<usize>,
    bounds: Bounds,
}

/// A place, and how far decoding came.
#[derive(Clone, Copy)]
struct At<'p> {
    place: &'p Place<'p>,
    progress: &'p Progress,
}

impl<'p> At<'p> {
    /// A place in this one.
    const fn within(self, place: &'p Place<'p>) -> Self {
        At { place, ..self }
    }

    /// The innermost place is the first that is noted.
    fn note<E>(self, error: E) -> E {
        self.progress.failed.borrow_mut().get_or_insert_with(|| self.place.to_string());
        error
    }

    /// One more in this place, after `before` of at most `max`.
    fn count<E: Error>(self, before: usize, max: usize) -> Result<(), E> {
        let Progress { failed, too_many, left, bounds } = self.progress;
        let reached = if before >= max {
            max
        } else if let Some(rest) = left.get().checked_sub(1) {
            left.set(rest);
            return Ok(());
        } else {
            failed.replace(Some(WHOLE.to_owned()));
            bounds.all
        };
        too_many.set(Some(reached));
        Err(self.note(E::custom("too many")))
    }
}

/// Up to here every whole number has a form of its own among the floating ones.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A deserializer, visitor or seed, wrapped.
struct Strict<'p, T> {
    inner: T,
    at: At<'p>,
    /// Whether nothing but an object will do.
    object: bool,
}

impl<'p, T> Strict<'p, T> {
    fn around<U>(at: At<'p>, inner: U) -> Strict<'p, U> {
        Strict { inner, at, object: false }
    }
}

macro_rules! forward_deserialize {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(Strict { inner: visitor, at: self.at, object: self.object })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<'_, D> {
    type Error = D::Error;

    forward_deserialize! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, Self::around(self.at, visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_newtype_struct(name, Self::around(self.at, visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, Self::around(self.at, visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, len, Self::around(self.at, visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, Strict { inner: visitor, at: self.at, object: true })
    }

    /// A choice is a text: none in any body has more to it.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(Choice(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! forward_visit {
    ($($method:ident: $value:ty),* $(,)?) => {
        $(fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    forward_visit! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128, visit_u8: u8,
        visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128, visit_f32: f32, visit_char: char,
        visit_str: &str, visit_borrowed_str: &'de str, visit_string: String, visit_bytes: &[u8],
        visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    /// What is whole is an integer, however it is written: JSON Schema knows no difference between 1 and 1.0.
    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        let whole = value.fract() == 0.0 && value.abs() <= EXACT;
        if whole { self.inner.visit_i64(value as i64) } else { self.inner.visit_f64(value) }
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Self::around(self.at, deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Self::around(self.at, deserializer))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(data)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        if self.object {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self.inner));
        }
        self.inner.visit_seq(Elements { inner: elements, at: self.at, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Members { inner: members, at: self.at, name: String::new(), seen: HashSet::new() })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Self::around(self.at, deserializer))
    }
}

/// A list whose elements are decoded strictly.
struct Elements<'p, A> {
    inner: A,
    at: At<'p>,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let max = self.at.progress.bounds.list;
        if self.index >= max {
            // Whether it ends here.
            return match self.inner.next_element::<IgnoredAny>()? {
                None => Ok(None),
                Some(_) => self.at.count(self.index, max).map(|()| None),
            };
        }
        let place = Place::Element(self.at.place, self.index);
        let at = self.at.within(&place);
        let element = self.inner.next_element_seed(Strict { inner: seed, at, object: false });
        let element = element.map_err(|error| at.note(error))?;
        if element.is_some() {
            self.at.count(self.index, max)?;
        }
        self.index += 1;
        Ok(element)
    }

    // What a list says of its length is not to be believed: room is made for what comes.
}

/// An object whose values are decoded strictly.
struct Members<'p, A> {
    inner: A,
    at: At<'p>,
    /// The name whose value comes next.
    name: String,
    seen: HashSet<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let key = self.inner.next_key_seed(Name { seed, to: &mut self.name })?;
        if key.is_some() {
            self.at.count(self.seen.len(), MAX_NAMES)?;
            if !self.seen.insert(self.name.clone()) {
                let twice = format!("{:?} is given more than once; give it once", self.name);
                return Err(self.at.note(A::Error::custom(twice)));
            }
        }
        Ok(key)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let place = Place::Member(self.at.place, &self.name);
        let at = self.at.within(&place);
        self.inner.next_value_seed(Strict { inner: seed, at, object: false }).map_err(|error| at.note(error))
    }
}

/// Takes a name, which is a text, for `seed` and for `to`.
struct Name<'n, S> {
    seed: S,
    to: &'n mut String,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Name<'_, S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<S::Value, E> {
        text.clone_into(self.to);
        self.seed.deserialize(text.into_deserializer())
    }
}

/// Takes a text for the name of a variant.
struct Choice<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Choice<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        self.0.visit_enum(text.into_deserializer())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::super::format::Format;

    use super::{Bounds, MAX_NAMES, Unfit};

    const ALL: Bounds = Bounds::of_lists(usize::MAX);
    const MESSAGE_PACK: Format = Format::MessagePack("application/msgpack");

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Body {
        devices: Vec<Entry>,
        #[serde(default)]
        size: Option<f64>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Entry {
        id: u8,
        kind: Kind,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    enum Kind {
        Old,
        New,
    }

    fn refused(text: &str) -> String {
        let mut error = Format::Json.decode::<Body>(text.as_bytes(), ALL).unwrap_err().to_string();
        error.truncate(error.find(" at line").unwrap_or(error.len()));
        error
    }

    #[test]
    fn what_is_wrong_is_said_however_deep_it_lies() {
        let name = "é".repeat(300);
        let text = format!(r#"{{"devices":[{{"id":1,"kind":"new","labels":{{"{name}":7}}}}]}}"#);
        let expected =
            format!("devices[0].labels.{}...: invalid type: integer `7`, expected a string", &name[..2 * 82]);
        assert_eq!(refused(&text), expected);
    }

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        let id = |number: &str| {
            let body = format!(r#"{{"devices": [{{"id": {number}, "kind": "new"}}], "size": {number}}}"#);
            Format::Json.decode::<Body>(body.as_bytes(), ALL).map(|body| (body.devices[0].id, body.size))
        };
        for text in ["7", "7.0", "0.7e1", "70e-1"] {
            assert_eq!(id(text), Ok((7, Some(7.0))), "{text}");
        }
        for text in ["7.5", "256.0", "-1.0", "1e300"] {
            assert!(id(text).unwrap_err().to_string().starts_with("devices[0].id: "), "{text}");
        }
    }

    #[test]
    fn what_fits_is_taken_in_either_form() {
        let labels = [("a", "1"), ("b", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let expected = Body {
            devices: vec![
                Entry { id: 1, kind: Kind::New, labels },
                Entry { id: 2, kind: Kind::Old, labels: BTreeMap::new() },
            ],
            size: Some(1e3),
        };
        let value = json!({"devices": [{"id": 1, "kind": "new", "labels": {"a": "1", "b": ""}, "more": [{}, null, 1.5]},
            {"kind": "old", "id": 2}], "size": 1000, "more": {"size": 1}});
        for format in [Format::Json, MESSAGE_PACK] {
            let bytes = format.encode(&value).unwrap();
            assert_eq!(format.decode::<Body>(&bytes, ALL).as_ref(), Ok(&expected), "{format:?}");
            assert_eq!(format.decode::<Value>(&bytes, ALL), Ok(value.clone()), "{format:?}");
        }
    }

    #[test]
    fn an_error_says_where_it_is() {
        for (text, expected) in [
            ("", "EOF while parsing a value"),
            ("[]", "invalid type: sequence, expected struct Body"),
            ("[[],1]", "invalid type: sequence, expected struct Body"),
            ("{}", "missing field `devices`"),
            (r#"{"devices": null}"#, "devices: invalid type: null, expected a sequence"),
            (r#"{"devices": {}}"#, "devices: invalid type: map, expected a sequence"),
            (r#"{"devices": [], "devices": []}"#, r#""devices" is given more than once; give it once"#),
            (r#"{"devices": [], "x": 1, "x": 1}"#, r#""x" is given more than once; give it once"#),
            (r#"{"devices": [[1, "old", {}]]}"#, "devices[0]: invalid type: sequence, expected struct Entry"),
            (r#"{"devices": [{"id": 1, "kind": "old"}, {"id": 1}]}"#, "devices[1]: missing field `kind`"),
            (r#"{"devices": [{"id": 256}]}"#, "devices[0].id: invalid value: integer `256`, expected u8"),
            (r#"{"devices": [{"id": 1.5}]}"#, "devices[0].id: invalid type: floating point `1.5`, expected u8"),
            (r#"{"devices": [{"kind": "odd"}]}"#, "devices[0].kind: unknown variant `odd`, expected `old` or `new`"),
            (r#"{"devices": [{"kind": {"old": null}}]}"#, "devices[0].kind: invalid type: map, expected enum Kind"),
            (
                r#"{"devices": [{"labels": {"a": 1}}]}"#,
                "devices[0].labels.a: invalid type: integer `1`, expected a string",
            ),
            (
                r#"{"devices": [{"labels": {"a": "1", "a": "2"}}]}"#,
                r#"devices[0].labels: "a" is given more than once; give it once"#,
            ),
            (r#"{"devices": [], "size": "1"}"#, r#"size: invalid type: string "1", expected f64"#),
        ] {
            assert_eq!(refused(text), expected, "{text}");
        }
    }

    #[test]
    fn a_list_a_number_for_a_name_and_a_deep_value_are_refused_in_message_pack_too() {
        let decode = |bytes: &[u8]| MESSAGE_PACK.decode::<Body>(bytes, ALL).unwrap_err().to_string();
        assert!(decode(&[0x92, 0x90, 0xc0]).contains("expected struct Body"));
        assert!(decode(&[0x81, 0x00, 0x90]).contains("expected a name"));
        let deep = [&[0x81, 0xa1, b'x'][..], &[0x91; 100_000]].concat();
        assert!(decode(&deep).contains("depth limit"), "{}", decode(&deep));
        // A list that claims to have 4 billion elements takes no room for them.
        assert!(MESSAGE_PACK.decode::<Vec<u64>>(&[0xdd, 0xff, 0xff, 0xff, 0xff, 1], ALL).is_err());
    }
    #[test]
    fn what_is_too_long_is_refused_where_it_gets_too_long() {
        let too_many = |what: &str, max| Unfit::TooMany { what: what.to_owned(), max };
        for format in [Format::Json, MESSAGE_PACK] {
            let decode = |value: &Value, bounds| format.decode::<Value>(&format.encode(value).unwrap(), bounds);
            for len in [0, 3] {
                let fits = json!({"a": [vec![0; len]]});
                assert_eq!(decode(&fits, Bounds::of_lists(3)), Ok(fits));
            }
            let long = json!({"a": [0, {"b": vec![0; 4]}]});
            assert_eq!(decode(&long, Bounds::of_lists(3)), Err(too_many("a[1].b", 3)));
            assert_eq!(decode(&json!([1, 2]), Bounds::of_lists(1)), Err(too_many("the body", 1)));
            // Two lists of two, two elements around them and a name.
            let all = json!({"a": [[0, 0], [0, 0]]});
            assert_eq!(decode(&all, Bounds { list: 3, all: 7 }), Ok(all.clone()));
            assert_eq!(decode(&all, Bounds { list: 3, all: 6 }), Err(too_many("the body", 6)));
            let names: serde_json::Map<_, _> = (0..=MAX_NAMES).map(|n| (n.to_string(), json!(0))).collect();
            let named = json!({"after": names});
            assert_eq!(decode(&named, ALL), Err(too_many("after", MAX_NAMES)));
        }
        // What comes after the bound is not even looked at.
        let endless = [&b"{\"a\": [0,0,0,0"[..], &[0xff; 9]].concat();
        assert_eq!(Format::Json.decode::<Value>(&endless, Bounds::of_lists(3)), Err(too_many("a", 3)));
    }
}
