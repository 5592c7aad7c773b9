//! A registry served on a port of 127.0.0.1, and a client that shows answers as they come.

use millstream_registry::{Registry, router};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

pub struct Server {
    pub address: SocketAddr,
    /// Dropped with the server, which ends it.
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start() -> Server {
        Self::with(Registry::in_memory())
    }

    pub fn with(registry: Registry) -> Server {
        Self::serve(router(registry))
    }

    pub fn serve(app: axum::Router) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server { address, _runtime: runtime }
    }

    /// Status, headers and body of one request.
    pub fn exchange(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\
             Content-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The server may answer, and close, before it has read a body that it refuses.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    /// Status and body, which is always JSON in the registry's content type.
    pub fn call(&self, method: &str, path: &str, body: impl Into<Value>) -> (u16, Value) {
        let body = match body.into() {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let (status, head, body) = self.exchange(method, path, body.as_bytes());
        assert!(
            head.contains("content-type: application/vnd.schemaregistry.v1+json"),
            "{method} {path}: {head}"
        );
        (status, serde_json::from_str(&body).expect("a body of JSON"))
    }

    /// The body of a request that must succeed.
    pub fn ok(&self, method: &str, path: &str, body: impl Into<Value>) -> Value {
        let (status, body) = self.call(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {body}");
        body
    }

    /// The id and the version that a schema gets.
    pub fn register(&self, path: &str, body: impl Into<Value>) -> (u64, u64) {
        let answer = self.ok("POST", path, body);
        (answer["id"].as_u64().unwrap(), answer["version"].as_u64().unwrap())
    }

    /// The message of a request that must fail with this code.
    #[track_caller]
    pub fn fails(&self, code: u32, method: &str, path: &str, body: impl Into<Value>) -> String {
        let (status, body) = self.call(method, path, body);
        let wanted = if code < 1000 { code } else { code / 100 };
        assert_eq!((status.into(), &body["error_code"]), (wanted, &code.into()), "{path}: {body}");
        let message = body["message"].as_str().expect("a message").to_owned();
        assert!(!message.is_empty());
        message
    }
}
