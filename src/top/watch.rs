//! The loop: asks the gateway, takes keys, and draws when something has changed. One question at a time, so that on a slow
//! link none overtakes another; a gateway that does not answer is asked again after each interval.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::time::Duration;

use ratatui::crossterm::event::Event;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, sleep_until};

use super::lookup::{self, Found};
use super::model::{Action, Model};
use crate::client::{Client, ClientError};
use crate::clock::{Clock, Timestamp};
use crate::id::DeviceId;
use crate::status::GatewayStatus;

/// Ages are shown in seconds.
const TICK: Duration = Duration::from_secs(1);

/// What to ask. Default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Question {
    status: bool,
    device: Option<DeviceId>,
}

/// What came of a question, for each of its parts.
#[derive(Debug)]
struct Answer {
    status: Option<Result<GatewayStatus, ClientError>>,
    device: Option<(DeviceId, Result<Found, ClientError>)>,
}

/// Watches the gateway until a key asks to end, `events` ends, or `interrupted` completes. Calls `draw` at first, whenever
/// something has changed, and each second.
///
/// # Errors
/// Those of `draw` and of `events`.
pub(super) async fn watch(
    client: &Client,
    model: &mut Model,
    mut events: Receiver<io::Result<Event>>,
    interrupted: impl Future<Output = ()>,
    mut draw: impl FnMut(&Model, Timestamp) -> io::Result<()>,
) -> io::Result<()> {
    let clock = Clock::default();
    let mut interrupted = pin!(interrupted);
    let (mut asking, mut asked_at) = (None, None::<Instant>);
    // By a key, out of turn.
    let mut wanted = Question::default();
    loop {
        draw(model, clock.now())?;
        let due = asked_at.map_or_else(Instant::now, |at| at + model.every);
        if asking.is_none() {
            let question = next_question(model, std::mem::take(&mut wanted), due <= Instant::now());
            if question.status {
                asked_at = Some(Instant::now());
            }
            asking = (question != Question::default()).then(|| Box::pin(ask(client, question)));
        }
        let idle = asking.is_none() && !model.paused;
        tokio::select! {
            () = &mut interrupted => return Ok(()),
            event = events.recv() => match event.transpose()? {
                None => return Ok(()),
                Some(Event::Key(key)) => match model.key(key) {
                    Action::Quit => return Ok(()),
                    Action::AskStatus => wanted.status = true,
                    Action::AskDevice => wanted.device = model.lookup.as_ref().map(|lookup| lookup.id),
                    Action::Draw => {}
                },
                // Of these, another size of the terminal matters, which drawing finds out.
                Some(_) => {}
            },
            answer = answered(&mut asking) => {
                asking = None;
                take_in(model, answer, clock.now());
            }
            () = sleep_until(due), if idle => {}
            () = sleep(TICK) => {}
        }
    }
}

/// What to ask now: what is `wanted`, and everything if it is `due`, unless that is paused.
fn next_question(model: &Model, wanted: Question, due: bool) -> Question {
    let status = wanted.status || due && !model.paused;
    let looked_up = model.lookup.as_ref().filter(|_| status).map(|lookup| lookup.id);
    Question { status, device: wanted.device.or(looked_up) }
}

async fn ask(client: &Client, question: Question) -> Answer {
    let status = if question.status { Some(client.status().await) } else { None };
    let device = match question.device {
        // It would have to wait for its time-out again.
        Some(id) if !matches!(status, Some(Err(_))) => Some((id, lookup::ask(client, id).await)),
        _ => None,
    };
    Answer { status, device }
}

/// Completes with the answer; never where nothing is asked.
async fn answered<F: Future + Unpin>(asking: &mut Option<F>) -> F::Output {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}

fn take_in(model: &mut Model, answer: Answer, at: Timestamp) {
    if let Some(status) = answer.status {
        model.update(status, at);
    }
    if let Some((id, found)) = answer.device {
        model.update_device(id, found, at);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use ratatui::crossterm::event::KeyCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc::{self, Sender, UnboundedReceiver};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::super::samples::{DEVICE, key, status, status_later};
    use super::*;

    /// Longer than anything here takes, so that what never comes fails the test.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A gateway that tells the sample status and then the later one, and knows one device.
    struct Gateway {
        address: SocketAddr,
        /// Breaks every connection off instead.
        broken: Arc<AtomicBool>,
        paths: UnboundedReceiver<String>,
    }

    impl Gateway {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, broken) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
            let (tell, paths) = mpsc::unbounded_channel();
            let breaking = Arc::clone(&broken);
            tokio::spawn(async move {
                let mut told = 0;
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let path = path_of(&mut stream).await.filter(|_| !breaking.load(Ordering::Relaxed));
                    let Some(path) = path else { continue };
                    let body = match path.rsplit('/').next().unwrap() {
                        "gateway" => serde_json::to_string(&if told == 0 { status() } else { status_later() }).unwrap(),
                        "lastRoute" => r#"{"interface":"udp"}"#.to_owned(),
                        _ => "{}".to_owned(),
                    };
                    told += usize::from(path == "/gateway");
                    let head =
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all((head + &body).as_bytes()).await.unwrap();
                    // The test may have ended.
                    let _ = tell.send(path);
                }
            });
            Self { address, broken, paths }
        }

        /// Until it was asked for this path.
        async fn asked(&mut self, path: &str) {
            let wait = async { while self.paths.recv().await.unwrap() != path {} };
            timeout(PATIENCE, wait).await.expect("in time");
        }
    }

    /// What is asked for; `None` if the client leaves before it has asked.
    async fn path_of(stream: &mut TcpStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        String::from_utf8(head).ok()?.split(' ').nth(1).map(str::to_owned)
    }

    /// A loop that watches a gateway, its keyboard, and what it draws.
    struct Watching {
        keys: Option<Sender<io::Result<Event>>>,
        drawn: UnboundedReceiver<String>,
        ending: JoinHandle<io::Result<()>>,
    }

    impl Watching {
        fn start(address: SocketAddr, every: Duration) -> Self {
            let (keys, events) = mpsc::channel(16);
            let (show, drawn) = mpsc::unbounded_channel();
            let ending = tokio::spawn(async move {
                let client = Client::new(&format!("http://{address}"), None).unwrap();
                let mut model = Model::new(client.address(), every);
                let draw = |model: &Model, _| {
                    let _ = show.send(summary(model));
                    Ok(())
                };
                watch(&client, &mut model, events, pending(), draw).await
            });
            Self { keys: Some(keys), drawn, ending }
        }

        async fn press(&self, code: KeyCode) {
            self.keys.as_ref().unwrap().send(Ok(Event::Key(key(code)))).await.unwrap();
        }

        /// Until this is shown.
        async fn shows(&mut self, summary: &str) {
            let wait = async { while self.drawn.recv().await.unwrap() != summary {} };
            timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{summary} is never shown"));
        }

        async fn end(self) -> io::Result<()> {
            timeout(PATIENCE, self.ending).await.expect("in time").unwrap()
        }
    }

    /// What a screen says in short.
    fn summary(model: &Model) -> String {
        let state = match (&model.outage, &model.latest) {
            (Some(_), _) => "outage".to_owned(),
            (None, Some(latest)) => latest.status.datagrams["accepted"].to_string(),
            (None, None) => "nothing".to_owned(),
        };
        let device = model.lookup.as_ref().map_or("", |lookup| match &lookup.found {
            None => ", asking",
            Some((Ok(_), _)) => ", found",
            Some((Err(_), _)) => ", failed",
        });
        format!("{state}{device}")
    }

    const SOON: Duration = Duration::from_millis(5);
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn each_interval_brings_another_status_and_q_ends() {
        let gateway = Gateway::start().await;
        let mut watching = Watching::start(gateway.address, SOON);
        watching.shows("nothing").await;
        watching.shows("1234567").await;
        watching.shows("1237036").await;
        watching.press(KeyCode::Char('q')).await;
        watching.end().await.unwrap();
    }

    #[tokio::test]
    async fn an_outage_is_shown_and_ends_by_itself() {
        let gateway = Gateway::start().await;
        let mut watching = Watching::start(gateway.address, SOON);
        watching.shows("1234567").await;
        gateway.broken.store(true, Ordering::Relaxed);
        watching.shows("outage").await;
        gateway.broken.store(false, Ordering::Relaxed);
        watching.shows("1237036").await;
    }

    #[tokio::test]
    async fn a_device_is_asked_for_at_once_and_with_every_status_from_then_on() {
        let mut gateway = Gateway::start().await;
        let mut watching = Watching::start(gateway.address, NEVER);
        watching.shows("1234567").await;
        for digit in DEVICE.to_string().chars() {
            watching.press(KeyCode::Char(digit)).await;
        }
        watching.press(KeyCode::Enter).await;
        watching.shows("1234567, asking").await;
        watching.shows("1234567, found").await;
        gateway.asked("/device/deviceId/d291d4d66bf0a955/state").await;
        // Pausing and going on asks at once.
        watching.press(KeyCode::Char('p')).await;
        watching.press(KeyCode::Char('p')).await;
        watching.shows("1237036, found").await;
        gateway.asked("/gateway").await;
        gateway.asked("/device/deviceId/d291d4d66bf0a955/lastRoute").await;
    }

    #[tokio::test]
    async fn nothing_is_asked_before_the_last_question_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut watching = Watching::start(listener.local_addr().unwrap(), SOON);
        let (mut first, _) = listener.accept().await.unwrap();
        path_of(&mut first).await.unwrap();
        // A look-up is wanted at once, and the status long due.
        for digit in DEVICE.to_string().chars() {
            watching.press(KeyCode::Char(digit)).await;
        }
        watching.press(KeyCode::Enter).await;
        watching.shows("nothing, asking").await;
        watching.press(KeyCode::Char('p')).await;
        watching.press(KeyCode::Char('p')).await;
        watching.shows("nothing, asking").await;
        watching.shows("nothing, asking").await;
        tokio::select! {
            biased;
            _ = listener.accept() => panic!("asked while asking"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        let (mut second, _) = listener.accept().await.unwrap();
        assert_eq!(path_of(&mut second).await.as_deref(), Some("/gateway"));
    }

    #[tokio::test]
    async fn the_end_of_the_keyboard_ends_it_and_its_errors_and_those_of_drawing_come_out() {
        let gateway = Gateway::start().await;
        let mut watching = Watching::start(gateway.address, NEVER);
        watching.keys = None;
        watching.end().await.unwrap();

        let watching = Watching::start(gateway.address, NEVER);
        watching.keys.as_ref().unwrap().send(Err(io::Error::other("unplugged"))).await.unwrap();
        assert_eq!(watching.end().await.unwrap_err().to_string(), "unplugged");

        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let (_keys, events) = mpsc::channel(1);
        let draw = |_: &Model, _| Err(io::Error::other("no more paper"));
        let error = watch(&client, &mut Model::new("", NEVER), events, pending(), draw).await.unwrap_err();
        assert_eq!(error.to_string(), "no more paper");
    }

    #[tokio::test]
    async fn an_interruption_ends_it() {
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let (_keys, events) = mpsc::channel(1);
        watch(&client, &mut Model::new("", NEVER), events, async {}, |_, _| Ok(())).await.unwrap();
    }

    #[test]
    fn while_paused_only_what_is_wanted_is_asked() {
        let mut model = Model::new("", SOON);
        model.paused = true;
        assert_eq!(next_question(&model, Question::default(), true), Question::default());
        let device = Question { status: false, device: Some(DEVICE) };
        assert_eq!(next_question(&model, device, true), device);
        model.paused = false;
        assert_eq!(next_question(&model, device, true), Question { status: true, ..device });
        assert_eq!(next_question(&model, Question::default(), false), Question::default());
    }
}
