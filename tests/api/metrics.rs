//! The metrics as a scraper reads them, and docs/metrics.md, which explains them: neither knows one that the other does not.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Server, Setup};

const PAGE: &str = include_str!("../../docs/metrics.md");

/// Families by name, each with its type and the names of its labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// The cells of the rows that explain a metric.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `lastroute_"));
    rows.map(|row| row.split('|').skip(1).map(str::trim).collect())
}

fn explained() -> Families {
    let families = rows().map(|cells| {
        let text = cells[0].trim_matches('`');
        let (name, labels) = text.split_once('{').unwrap_or((text, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(str::to_owned);
        (name.to_owned(), (cells[1].to_owned(), labels.collect()))
    });
    families.collect()
}

fn scraped(text: &str) -> Families {
    let mut families = Families::new();
    let mut present = "";
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            present = name;
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            assert!(line.starts_with(present), "{line} under {present}");
            families.get_mut(present).unwrap().1.extend(labels(line));
        }
    }
    families
}

/// The labels of a sample, without the bounds of buckets.
fn labels(sample: &str) -> impl Iterator<Item = String> {
    let labels = sample.split_once('{').map_or("", |(_, labels)| labels);
    // Names stand before every other quotation mark; the value of the sample stands behind the last one.
    let names = labels.split('"').step_by(2).filter_map(|name| name.trim_start_matches(',').strip_suffix('='));
    names.filter(|name| *name != "le").map(str::to_owned)
}

#[tokio::test]
async fn every_metric_is_explained_and_nothing_else() {
    let server = Server::start(Setup::default()).await;
    // So that there is a request to tell of.
    server.get("/metrics", "").await;
    let text = String::from_utf8(server.get("/metrics", "").await.body).unwrap();
    assert_eq!(scraped(&text), explained());
    assert_eq!(rows().count(), explained().len(), "each in one row");
}

#[tokio::test]
async fn what_is_in_the_status_too_is_there_under_the_name_that_is_told() {
    let server = Server::start(Setup::default()).await;
    let status = server.get("/gateway", "").await.json();
    let names: Vec<_> = rows().map(|cells| cells[4].trim_matches('`')).filter(|name| !name.is_empty()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let pointer = format!("/{}", name.replace('.', "/"));
        assert!(status.pointer(&pointer).is_some(), "{name} is not in {status}");
    }
}
