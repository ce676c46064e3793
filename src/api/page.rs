//! The page to read the description and to try the API: a document, a script and a style sheet of our own, which load nothing
//! from elsewhere.
//!
//! Like every answer they are not kept by browsers: a page fits the gateway that serves it, whatever was upgraded.

use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};

use super::handlers::{Reply, typed};

/// Nothing from other servers, nothing written into the page itself, and no page of others around it: it handles a key.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn document() -> Reply {
    part("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(super) fn script() -> Reply {
    part("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

pub(super) fn style() -> Reply {
    part("text/css; charset=utf-8", include_str!("page/page.css"))
}

fn part(content_type: &'static str, text: &'static str) -> Reply {
    let mut reply = typed(content_type, text);
    for (name, value) in
        [(CONTENT_SECURITY_POLICY, POLICY), (X_CONTENT_TYPE_OPTIONS, "nosniff"), (REFERRER_POLICY, "no-referrer")]
    {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}
