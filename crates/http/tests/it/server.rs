//! A server on loopback that notes what it is asked and answers by a function.

use flate2::read::GzDecoder;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub target: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    /// Unpacked.
    pub body: String,
}

#[derive(Debug, Clone)]
pub enum Reply {
    Is(u16, &'static str, String),
    /// The head says more than there is.
    Half,
    /// Closed in the middle of the head.
    Cut,
    /// The connection is reset once the request was read.
    Reset,
    Slow(Duration),
}

pub fn is(status: u16) -> Reply {
    Reply::Is(status, "", String::new())
}

type Answers = Arc<dyn Fn(usize, &Asked) -> Reply + Send + Sync>;

#[derive(Clone)]
pub struct Server {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    pub connections: Arc<AtomicUsize>,
    /// Requests that are under way now, and that were at most.
    pub under_way: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Server {
    /// `answers` is given the number of the request too.
    pub async fn start(answers: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Server {
        Self::with(None, answers).await
    }

    pub async fn with(
        tls: Option<TlsAcceptor>,
        answers: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, connections, under_way) = Default::default();
        let server = Server { port, asked, connections, under_way };
        let (shared, answers): (_, Answers) = (server.clone(), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, answers, tls) = (shared.clone(), answers.clone(), tls.clone());
                tokio::spawn(async move {
                    server.connections.fetch_add(1, Ordering::SeqCst);
                    match tls {
                        None => server.serve(stream, &answers, reset).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream, &answers, |_| {}).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        answers: &Answers,
        reset: impl FnOnce(S),
    ) {
        let mut stream = BufReader::new(stream);
        while let Some(asked) = read(&mut stream).await {
            let (now, most) = &*self.under_way;
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let number = {
                let mut all = self.asked.lock();
                all.push(asked.clone());
                all.len() - 1
            };
            let reply = answers(number, &asked);
            // So that requests which may be under way together are.
            tokio::time::sleep(Duration::from_millis(2)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            let text = match reply {
                Reply::Is(status, headers, body) => {
                    let length = body.len();
                    format!(
                        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
                    )
                }
                Reply::Half => {
                    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"half\":".to_owned()
                }
                Reply::Cut => "HTTP/1.1 20".to_owned(),
                Reply::Reset => return reset(stream.into_inner()),
                Reply::Slow(time) => {
                    tokio::time::sleep(time).await;
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
                }
            };
            if stream.write_all(text.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            if reply_ends(&text) {
                return;
            }
        }
    }
}

fn reply_ends(text: &str) -> bool {
    text.ends_with("half\":") || text == "HTTP/1.1 20"
}

fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn read<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let mut parts = line.split(' ');
    let (method, target) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    let mut body = String::new();
    match headers.get("content-encoding").map(String::as_str) {
        Some("gzip") => drop(GzDecoder::new(&*bytes).read_to_string(&mut body).unwrap()),
        _ => body = String::from_utf8(bytes).unwrap(),
    }
    Some(Asked { method, target, headers, body })
}
