//! A gateway, or hyper with nothing behind it, as a process of its own that is made of the benchmark's own program: what it
//! takes of memory and processor is nobody else's, and nothing has to lie beside the program.
#![allow(dead_code, reason = "no benchmark needs all of it")]

use std::convert::Infallible;
use std::future::pending;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lastroute::app::App;
use lastroute::config::{Config, Flags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use super::fleet;

/// First arguments of the program that make it a server.
const GATEWAY: &str = "be-a-gateway";
const BARE: &str = "be-bare-hyper";
/// The end of the paths that hyper with nothing behind it never answers.
const WAIT: &str = "/waitForPacket";

/// A server as a process of its own.
pub(crate) struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Where it takes datagrams, if it does.
    pub(crate) udp: SocketAddr,
    pub(crate) http1: SocketAddr,
    pub(crate) http2: SocketAddr,
}

/// An answer to every request: headers, then the body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// To be called before anything else: where this process is to be a server, it is one until its input ends.
pub(crate) fn serve_if_asked() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(GATEWAY) => serve_gateway(),
        Some(BARE) => serve_bare(Sample::of(arguments)),
        _ => return,
    }
    std::process::exit(0);
}

/// A gateway in this process that knows the network of the fleet, with its data in `directory`.
pub(crate) fn gateway(directory: &Path) -> App {
    let key = base64::engine::general_purpose::STANDARD.encode(fleet::ROOT);
    std::fs::write(directory.join("network.key"), key).unwrap();
    let file = directory.join("lastroute.toml");
    let listen = "udp-listen = \"127.0.0.1:0\"\nhttp-listen = \"127.0.0.1:0\"\ndata-dir = \"data\"\n";
    let network = format!("[[network]]\nid = \"{:06x}\"\nkey-file = \"network.key\"\n", fleet::NETWORK.get());
    std::fs::write(&file, format!("{listen}unregistered-limit = 1000000\n{network}")).unwrap();
    let flags = Flags { config: Some(file.to_str().unwrap().to_owned()), ..Flags::default() };
    App::start(Config::load(&flags, []).unwrap()).unwrap()
}

/// As many open files as this process and those it starts may have; returns how many that is.
pub(crate) fn allow_many_files() -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    most
}

impl Server {
    /// The gateway.
    pub(crate) fn gateway() -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()).arg(GATEWAY))
    }

    /// hyper, one thread of it, whose every answer is `sample`.
    pub(crate) fn bare(sample: &Sample) -> Self {
        let headers = sample.headers.iter().flat_map(|(name, value)| [name, value]);
        Self::start(Command::new(std::env::current_exe().unwrap()).arg(BARE).arg(&sample.body).args(headers))
    }

    #[allow(clippy::zombie_processes, reason = "it is waited for when it is dropped")]
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, mut output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let addresses: Vec<SocketAddr> = line(&mut output).split(' ').map(|text| text.parse().unwrap()).collect();
        Self { child, input, output, udp: addresses[0], http1: addresses[1], http2: addresses[2] }
    }

    /// Requests that wait.
    pub(crate) fn waiting(&mut self) -> usize {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        line(&mut self.output).parse().unwrap()
    }

    /// Bytes of memory.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Processor time of all its threads so far.
    pub(crate) fn processor(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = tasks.map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// As the program has one. Without any, `tracing` puts together for another crate what each span of h2 holds, which is a sixth of
/// all that is done for a request.
fn start_log() {
    lastroute::cli::start_logging("info");
}

fn serve_gateway() {
    start_log();
    let directory = tempfile::tempdir().unwrap();
    let app = gateway(directory.path());
    tell(&[app.udp()[0], app.http(), app.http()], || app.waits().waiting());
    app.stop();
}

fn serve_bare(sample: Sample) {
    start_log();
    let waiting = Arc::new(AtomicUsize::new(0));
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [http1, http2] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let bare = Bare { sample: Arc::new(sample.typed()), waiting: Arc::clone(&waiting) };
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let [http1, http2] = listeners.map(|listener| {
                listener.set_nonblocking(true).unwrap();
                TcpListener::from_std(listener).unwrap()
            });
            tokio::join!(bare.clone().serve_http1(http1), bare.serve_http2(http2));
        });
    });
    tell(&[http1, http1, http2], || waiting.load(Ordering::Relaxed));
}

/// Says where it serves, and how many wait whenever it is asked, until there is nobody to ask.
fn tell(addresses: &[SocketAddr], waiting: impl Fn() -> usize) {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    println!("{}", addresses.join(" "));
    for _ in std::io::stdin().lines() {
        println!("{}", waiting());
    }
}

/// hyper with nothing behind it.
#[derive(Clone)]
struct Bare {
    sample: Arc<(Vec<(HeaderName, HeaderValue)>, Bytes)>,
    waiting: Arc<AtomicUsize>,
}

type Answer = Result<Response<Full<Bytes>>, Infallible>;

impl Bare {
    async fn serve_http1(self, listener: TcpListener) {
        let mut builder = http1::Builder::new();
        builder.header_read_timeout(None);
        loop {
            let stream = accept(&listener).await;
            let bare = self.clone();
            tokio::spawn(builder.serve_connection(stream, service_fn(move |request| bare.answer(request))));
        }
    }

    async fn serve_http2(self, listener: TcpListener) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(250);
        loop {
            let stream = accept(&listener).await;
            let bare = self.clone();
            tokio::spawn(builder.serve_connection(stream, service_fn(move |request| bare.answer(request))));
        }
    }

    /// No async function, which would keep the request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send + use<> {
        let waits = request.uri().path().ends_with(WAIT);
        self.waiting.fetch_add(usize::from(waits), Ordering::Relaxed);
        let sample = Arc::clone(&self.sample);
        async move {
            if waits {
                pending::<()>().await;
            }
            let mut response = Response::new(Full::new(sample.1.clone()));
            for (name, value) in &sample.0 {
                response.headers_mut().insert(name, value.clone());
            }
            Ok(response)
        }
    }
}

async fn accept(listener: &TcpListener) -> TokioIo<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    TokioIo::new(stream)
}

impl Sample {
    fn of(mut arguments: impl Iterator<Item = String>) -> Self {
        let body = arguments.next().unwrap();
        let mut headers = Vec::new();
        while let Some(name) = arguments.next() {
            headers.push((name, arguments.next().unwrap()));
        }
        Self { headers, body }
    }

    fn typed(self) -> (Vec<(HeaderName, HeaderValue)>, Bytes) {
        let headers = self.headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        (headers.collect(), self.body.into())
    }
}
