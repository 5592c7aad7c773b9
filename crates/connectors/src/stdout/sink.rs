use arrow_array::RecordBatch;
use arrow_cast::pretty::pretty_format_batches;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Encoder, Error, Receipt, Result, Sink};
use millstream_formats::json::JsonEncoder;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock};
use tokio::sync::Mutex;

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A JSON object a line.
    JsonLines,
    /// A table for each batch.
    Table,
}

pub struct StdoutSinkOptions {
    pub shown: Shown,
    /// The columns of the rows.
    pub columns: SchemaRef,
    pub out: Output,
    /// Called when nobody reads what is written any more.
    pub nobody_reads: Arc<dyn Fn() + Send + Sync>,
}

/// Rows that cannot be shown, and why.
type Rejected = Vec<(u32, String)>;

/// Writes each batch whole, so that those of several partitions do not mix.
pub struct StdoutSink {
    encoder: Option<JsonEncoder>,
    out: Output,
    nobody_reads: Arc<dyn Fn() + Send + Sync>,
}

/// Where rows are written, shared by all who write there.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Lines>>);

struct Lines {
    to: Box<dyn Write + Send>,
    /// What was written last ends within a line, whose rest will not come.
    torn: bool,
}

impl Output {
    pub fn new(to: impl Write + Send + 'static) -> Output {
        Output(Arc::new(Mutex::new(Lines { to: Box::new(to), torn: false })))
    }

    /// The process has one.
    pub fn stdout() -> Output {
        static STDOUT: LazyLock<Output> = LazyLock::new(|| Output::new(io::stdout()));
        STDOUT.clone()
    }
}

impl Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.torn {
            self.to.write_all(b"\n")?;
            self.torn = false;
        }
        let mut rest = text;
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    self.torn = rest[taken - 1] != b'\n';
                    rest = &rest[taken..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.to.flush()
    }
}

impl StdoutSink {
    pub fn new(options: StdoutSinkOptions) -> Result<Self> {
        let StdoutSinkOptions { shown, columns, out, nobody_reads } = options;
        let encoder = match shown {
            Shown::JsonLines => Some(JsonEncoder::new(columns)?),
            Shown::Table => None,
        };
        Ok(Self { encoder, out, nobody_reads })
    }

    fn text(&mut self, rows: &RecordBatch) -> Result<(Vec<u8>, Rejected)> {
        let Some(encoder) = &mut self.encoder else {
            let table = pretty_format_batches(std::slice::from_ref(rows));
            let table = table.map_err(|e| Error::reject("unshowable", "a row").because(e))?;
            return Ok((format!("{table}\n").into_bytes(), Vec::new()));
        };
        let encoded = encoder.encode(rows)?;
        let mut text = Vec::with_capacity(encoded.buffer.len() + encoded.len());
        for row in 0..encoded.len() {
            // One that has no JSON form is empty.
            if !encoded.row(row).is_empty() {
                text.extend_from_slice(encoded.row(row));
                text.push(b'\n');
            }
        }
        Ok((text, encoded.rejected))
    }
}

#[async_trait]
impl Sink for StdoutSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let (text, rejected) = self.text(&batch.rows)?;
        let bytes = text.len() as u64;
        // Behind other tasks' writes, and one that nobody waits for any more.
        let mut out = self.out.0.clone().lock_owned().await;
        // Whoever reads may be slow.
        let written = tokio::task::spawn_blocking(move || out.write(&text));
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        match written {
            Ok(()) => {
                let rows = (batch.len() - rejected.len()) as u64;
                Ok(Receipt { rejected, rows, bytes, durable: async { Ok(()) }.boxed() })
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                (self.nobody_reads)();
                Err(Error::stop("nobody_reads", "nobody reads the standard output any more"))
            }
            Err(error) => {
                Err(Error::retry("stdout", "the standard output cannot be written").because(error))
            }
        }
    }
}
