//! The log of the program: text for people, JSON for machines.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Sends the log to standard error: as text if that is a terminal, else as one JSON object a line.
///
/// `filter` is `Config::log`. Panics if called twice.
pub fn start_logging(filter: &str) {
    let terminal = std::io::stderr().is_terminal();
    #[allow(clippy::expect_used, reason = "called once, at the start of the program")]
    tracing::subscriber::set_global_default(log(filter, terminal, std::io::stderr)).expect("no log yet");
}

fn log<W>(filter: &str, terminal: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(writer);
    // It would print that a line cannot be written, and panic as that cannot be written either.
    let log = log.log_internal_errors(false);
    if terminal { Box::new(log.finish()) } else { Box::new(log.json().flatten_event(true).finish()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, terminal: bool) -> String {
        let written = Written::default();
        let writer = written.clone();
        tracing::subscriber::with_default(log(filter, terminal, move || writer.clone()), || {
            tracing::info!(devices = 3, "ready");
            tracing::debug!("detail");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn elsewhere_than_on_a_terminal_the_log_is_one_json_object_a_line() {
        let text = logged("info", false);
        let object: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(
            (&object["level"], &object["message"], &object["devices"]),
            (&"INFO".into(), &"ready".into(), &3.into())
        );
    }

    #[test]
    fn on_a_terminal_the_log_is_text_and_the_filter_decides_what_is_in_it() {
        let text = logged("info", true);
        assert!(text.contains("ready") && !text.contains("detail") && !text.contains('{'), "{text}");
        assert_eq!(logged("debug", true).lines().count(), 2);
        assert_eq!(logged("off", true), "");
    }
}
