//! Any method and path: an endpoint is found only where the template has as many parts as the path and every fixed one of
//! them, and a method that is refused is none of those that are allowed.
//!
//! An input is a method, a space, and a path; of one without a space, the path.

use hyper::Method;
use lastroute::api::router::{ROWS, Router, UNMATCHED, Unroutable};

/// One input.
pub(crate) fn run(input: &[u8]) {
    let split = input.iter().position(|byte| *byte == b' ');
    let (method, path) = split.map_or((&b"GET"[..], input), |at| (&input[..at], &input[at + 1..]));
    let Ok(method) = Method::from_bytes(method) else { return };
    // Of what is no text nothing reaches the router.
    let Ok(path) = str::from_utf8(path) else { return };
    check(&method, path);
}

fn check(method: &Method, path: &str) {
    let matched = Router::new().resolve(method, path);
    let longer = Router::new().resolve(method, &format!("/{path}"));
    assert!(!path.starts_with('/') || longer.template == UNMATCHED, "a slash too many");
    let rows: Vec<_> = ROWS.iter().filter(|row| row.template == matched.template).collect();
    if matched.template == UNMATCHED {
        assert_eq!((rows.len(), matched.endpoint), (0, Err(Unroutable::Path)));
        return;
    }
    assert!(fits(matched.template, path), "{path} is no {}", matched.template);
    let allowed = |row: &&&lastroute::api::router::Row| {
        row.method == method || (method == Method::HEAD && row.method == Method::GET)
    };
    match (rows.iter().find(allowed), matched.endpoint) {
        (None, Err(Unroutable::Method { allow })) => {
            assert!(!allow.is_empty() && allow.split(", ").all(|name| name != method.as_str()), "{allow}");
        }
        (Some(row), Ok(_) | Err(Unroutable::Device(_) | Unroutable::Record | Unroutable::Text)) => {
            assert_eq!(matched.needs, row.needs);
        }
        (_, endpoint) => panic!("{method} {path}: {endpoint:?}"),
    }
}

/// Whether a path has the fixed parts of a template, and something for each of the others.
fn fits(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(named), Some(part)) if named.starts_with('{') => {
                if part.is_empty() {
                    return false;
                }
            }
            (Some(fixed), Some(part)) if fixed == part => {}
            _ => return false,
        }
    }
}
