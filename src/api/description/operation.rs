//! One operation of the description: what is asked, what is answered, and what every operation has in common.

use std::collections::BTreeMap;

use hyper::Method;
use utoipa::ToSchema;
use utoipa::openapi::content::Content;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{HttpMethod, Operation as Described, Parameter, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{Array, Object, Schema, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, RefOr, Required, Response, Responses};

use super::super::format::MESSAGE_PACK;
use super::super::views;

/// Marks what the REST contract does not have.
const EXTENSION: &str = "x-lastroute-extension";

const JSON: &str = "application/json";

/// What every request may be answered with instead: the status, the name of the response and its meaning. Those with
/// `Retry-After` are 429 and 503.
const REFUSALS: [(u16, &str, &str); 13] = [
    (400, "BadRequest", "The request is malformed: syntax, type, missing field, bad identifier or value."),
    (401, "Unauthorized", "Credentials are missing or wrong."),
    (403, "Forbidden", "The credentials do not allow this."),
    (404, "NotFound", "No such record."),
    (408, "RequestTimeout", "The body of the request did not arrive in time."),
    (409, "Conflict", "A unique value is taken, or something depends on the record."),
    (413, "ContentTooLarge", "The body of the request is too long."),
    (415, "UnsupportedMediaType", "The body of the request is in no form that is known."),
    (422, "Unprocessable", "Well-formed, but breaks a rule, for example by a reference to a record that is not there."),
    (429, "TooManyRequests", "Too many wait already; see Retry-After."),
    (431, "HeadTooLarge", "The path and the headers of the request are too long."),
    (500, "ServerError", "Internal failure."),
    (
        503,
        "Unavailable",
        "A bound is reached, or the gateway shuts down; see Retry-After. Without it a change may have been made.",
    ),
];

/// Named schemas.
type Schemas = Vec<(String, RefOr<Schema>)>;

/// A method of a path, described.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    described: Described,
    responses: BTreeMap<u16, RefOr<Response>>,
    /// What the bodies are made of.
    pub(super) schemas: Schemas,
}

impl Operation {
    /// An operation that asks for credentials and is part of the REST contract.
    fn new(method: Method, path: &'static str, id: &str, tag: &str, summary: &str) -> Self {
        let described = Described::builder().operation_id(Some(id)).tag(tag).summary(Some(summary)).build();
        let operation = Self { method, path, described, responses: BTreeMap::new(), schemas: Vec::new() };
        operation.refuses(&[401, 431, 500, 503])
    }

    pub(super) fn get(path: &'static str, id: &str, tag: &str, summary: &str) -> Self {
        Self::new(Method::GET, path, id, tag, summary)
    }

    pub(super) fn post<T: ToSchema>(path: &'static str, id: &str, tag: &str, summary: &str) -> Self {
        Self::new(Method::POST, path, id, tag, summary).takes::<T>()
    }

    /// A request to do something that may have a body or none.
    pub(super) fn post_perhaps<T: ToSchema>(path: &'static str, id: &str, tag: &str, summary: &str) -> Self {
        Self::new(Method::POST, path, id, tag, summary).takes_body::<T>(Required::False)
    }

    pub(super) fn put<T: ToSchema>(path: &'static str, id: &str, tag: &str, summary: &str) -> Self {
        Self::new(Method::PUT, path, id, tag, summary).takes::<T>()
    }

    pub(super) fn delete(path: &'static str, id: &str, tag: &str, summary: &str) -> Self {
        let nothing = Response::new("It is deleted.");
        Self::new(Method::DELETE, path, id, tag, summary).with_response(204, nothing).refuses(&[403])
    }

    /// More than the summary says.
    pub(super) fn about(mut self, text: &str) -> Self {
        self.described.description = Some(text.to_owned());
        self
    }

    /// Not part of the REST contract.
    pub(super) fn extension(mut self) -> Self {
        self.described.extensions = Some(Extensions::from_iter([(EXTENSION, true)]));
        self
    }

    /// Served without credentials.
    pub(super) fn open(mut self) -> Self {
        self.described.security = Some(vec![SecurityRequirement::default()]);
        self.responses.remove(&401);
        self
    }

    pub(super) fn parameter(mut self, parameter: Parameter) -> Self {
        self.described.parameters.get_or_insert_default().push(RefOr::T(parameter));
        self.refuses(&[400])
    }

    /// One parameter after the other, in this order.
    pub(super) fn parameters(self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        parameters.into_iter().fold(self, Self::parameter)
    }

    /// The request has a body, which is an error of some kind if it is not right.
    fn takes<T: ToSchema>(self) -> Self {
        self.takes_body::<T>(Required::True)
    }

    fn takes_body<T: ToSchema>(mut self, required: Required) -> Self {
        let content = Content::new(Some(self.reference::<T>()));
        let body = RequestBody::builder().required(Some(required));
        let body = body.content(JSON, content.clone()).content(MESSAGE_PACK[0], content).build();
        self.described.request_body = Some(RefOr::T(body));
        self.refuses(&[400, 408, 413, 415])
    }

    /// Answers with one `T`.
    pub(super) fn answers<T: ToSchema>(mut self, status: u16, meaning: &str) -> Self {
        let schema = self.reference::<T>();
        self.with_response(status, in_both_forms(meaning, schema))
    }

    /// Answers with a list.
    pub(super) fn lists<T: ToSchema>(mut self, status: u16, meaning: &str) -> Self {
        let schema = Array::new(self.reference::<T>());
        self.with_response(status, in_both_forms(meaning, Schema::Array(schema)))
    }

    /// Answers in this form and no other.
    pub(super) fn answers_as(self, form: &str, kind: Type, meaning: &str) -> Self {
        let content = Content::new(Some(Object::with_type(kind)));
        self.with_response(200, Response::builder().description(meaning).content(form, content).build())
    }

    pub(super) fn with_response(mut self, status: u16, response: Response) -> Self {
        self.responses.insert(status, RefOr::T(response));
        self
    }

    /// The answer of a status may also have this form.
    pub(super) fn or_text(mut self, status: u16, content_type: &str) -> Self {
        if let Some(RefOr::T(response)) = self.responses.get_mut(&status) {
            let text = Content::new(Some(Object::with_type(Type::String)));
            response.content.insert(content_type.to_owned(), RefOr::T(text));
        }
        self
    }

    /// The answer of a status has this header.
    pub(super) fn with_header(mut self, status: u16, name: &str, header: Header) -> Self {
        if let Some(RefOr::T(response)) = self.responses.get_mut(&status) {
            response.headers.insert(name.to_owned(), RefOr::T(header));
        }
        self
    }

    /// May be answered with an error of one of these statuses.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        for (status, name, _) in REFUSALS.iter().filter(|(status, ..)| statuses.contains(status)) {
            self.responses.insert(*status, RefOr::Ref(Ref::from_response_name(*name)));
        }
        self
    }

    fn reference<T: ToSchema>(&mut self) -> Ref {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name())
    }

    /// The path with nothing but this method.
    pub(super) fn into_item(mut self) -> PathItem {
        let responses = self.responses.into_iter().map(|(status, response)| (status.to_string(), response));
        self.described.responses = Responses::builder().responses_from_iter(responses).build();
        let method = match self.method {
            Method::PUT => HttpMethod::Put,
            Method::POST => HttpMethod::Post,
            Method::DELETE => HttpMethod::Delete,
            _ => HttpMethod::Get,
        };
        PathItem::new(method, self.described)
    }
}

/// The responses that operations refer to, by name.
pub(super) fn refusals() -> impl Iterator<Item = (&'static str, Response)> {
    REFUSALS.into_iter().map(|(status, name, meaning)| {
        let mut response = in_both_forms(meaning, Ref::from_schema_name(views::Error::name()));
        if matches!(status, 429 | 503) {
            let header = header("Seconds after which it is worth another try.", Object::with_type(Type::Integer));
            response.headers.insert("Retry-After".to_owned(), RefOr::T(header));
        }
        (name, response)
    })
}

pub(super) fn header(meaning: &str, schema: impl Into<RefOr<Schema>>) -> Header {
    let mut header = Header::new(schema);
    header.description = Some(meaning.to_owned());
    header
}

fn in_both_forms(meaning: &str, schema: impl Into<RefOr<Schema>>) -> Response {
    let content = Content::new(Some(schema));
    Response::builder().description(meaning).content(JSON, content.clone()).content(MESSAGE_PACK[0], content).build()
}
