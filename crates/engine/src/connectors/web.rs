//! From the options of HTTP servers, files and the standard output to their connectors.

use super::{credential, tls};
use anyhow::anyhow;
use arrow_schema::{Field, Schema, SchemaRef};
use millstream_config::{
    FilesCompression, FilesFormat, FilesTo, HttpBody, HttpClient, HttpFrom, HttpMethod, HttpTo,
    Pipeline as PipelineFile, StdoutFormat,
};
use millstream_connectors::stdout::{Output, Shown, StdoutSink, StdoutSinkOptions};
use millstream_core::{Credential, Error, Hidden, Lookup, Result, Sink};
use millstream_files::{Compression, Files, FilesOptions, Folder, Format, Roll};
use millstream_http::{
    Ask, Auth, Body, Client, ClientOptions, Headers, HttpLookup, HttpLookupOptions,
    HttpSinkOptions, HttpTarget, Site, Target, headers, placeholders,
};
use millstream_sql::LookupUse;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// As much of an answer to a sink is read.
const ANSWER_BYTES: usize = 64 << 10;

fn client(
    options: &HttpClient,
    file: &PipelineFile,
    timeout: Duration,
    retries: u32,
    answer_bytes_max: usize,
) -> ClientOptions {
    let auth = match (&options.username, &options.password, &options.token, &options.token_file) {
        (Some(user), Some(password), ..) => {
            Auth::Basic { user: user.clone(), password: credential::of(password) }
        }
        (_, _, Some(token), _) => Auth::Bearer(credential::of(token)),
        (.., Some(path)) => Auth::Bearer(Credential::File(file.resolve(path))),
        _ => Auth::None,
    };
    ClientOptions {
        auth,
        tls: options.tls.as_ref().map(|tls| tls::options(tls, file)).unwrap_or_default(),
        timeout,
        connections: options.connections as usize,
        requests_per_second: options.requests_per_second.map(f64::from),
        retries,
        answer_bytes_max,
    }
}

/// Sees that the files of a client, its certificates and its token, can be used. Blocks on disk.
pub fn http_client(options: &HttpClient, file: &PipelineFile) -> Result<()> {
    let options = client(options, file, Duration::ZERO, 0, 0);
    Client::new(options, Handle::current()).map(drop)
}

/// The headers that a file names. The error is a sentence for the user.
pub fn headers_of(options: &HttpClient) -> Result<Headers, String> {
    let given: Vec<(&String, Hidden)> = options
        .headers
        .iter()
        .map(|(name, value)| (name, Hidden(value.reveal().to_owned())))
        .collect();
    headers(given.iter().map(|(name, value)| (name.as_str(), value)))
}

/// A look-up bound to what the SQL joins it by.
pub fn http_lookup(
    from: &HttpFrom,
    file: &PipelineFile,
    timeout: Duration,
    used: &LookupUse,
    io: &Handle,
) -> anyhow::Result<Arc<dyn Lookup>> {
    let bytes_max = from.max_answer_bytes.0 as usize;
    // The look-up's own policy says how often.
    let client = Client::new(client(&from.client, file, timeout, 0, bytes_max), io.clone());
    let client = client.map_err(|error| anyhow!(error.chain()))?;
    let options = HttpLookupOptions {
        address: from.url.clone(),
        ask: match from.key {
            None => Ask::Get,
            Some(_) => Ask::Post { body: from.body.clone(), keys_max: from.max_keys as usize },
        },
        headers: headers_of(&from.client).map_err(|why| anyhow!(why))?,
        rows: from.rows.clone(),
        columns: from.columns.schema(),
        concurrency: from.concurrency as usize,
    };
    let columns = used.key.columns().into_iter().zip(&used.key_types);
    let columns: Vec<Field> =
        columns.map(|(name, data_type)| Field::new(name, data_type.clone(), true)).collect();
    let opened = HttpLookup::open(client, options, &used.key, Arc::new(Schema::new(columns)));
    Ok(Arc::new(opened.map_err(|error| anyhow!(error.chain()))?))
}

/// The columns that a look-up is asked by. The error is a sentence for the user.
pub fn key_of(from: &HttpFrom) -> Result<Vec<String>, String> {
    let named = placeholders(&from.url)?;
    match &from.key {
        Some(_) if !named.is_empty() => {
            Err("with `key` the address has no columns: the keys are in the body".to_owned())
        }
        Some(key) => {
            Site::of(&from.url)?;
            Ok(key.clone())
        }
        None if named.is_empty() => {
            Err("the address has no `{column}`, and there is no `key`: how is it asked?".to_owned())
        }
        None => {
            let plain = named.iter().fold(from.url.clone(), |address, name| {
                address.replace(&format!("{{{name}}}"), "x")
            });
            Site::of(&plain)?;
            match named.iter().find(|name| !from.columns.0.contains_key(*name)) {
                Some(name) => Err(format!("`{name}` in the address is not among the columns")),
                None => Ok(named),
            }
        }
    }
}

/// Where the rows of a sink go. The error is a sentence for the user.
pub fn http_target(to: &HttpTo) -> Result<Target, String> {
    match (&to.url, &to.url_column) {
        (Some(url), _) => Site::of(url).map(|(site, target)| Target::Address(site, target)),
        (None, Some(column)) => Ok(Target::Column(column.clone())),
        (None, None) => Err("there is neither `url` nor `url_column`".to_owned()),
    }
}

pub fn http_sink(
    to: &HttpTo,
    file: &PipelineFile,
    names: (&str, &str),
    columns: &Schema,
    io: &Handle,
) -> Result<Arc<HttpTarget>> {
    let wrong = |why: String| Error::stop("sink", why);
    let options = HttpSinkOptions {
        target: http_target(to).map_err(wrong)?,
        method: match to.method {
            HttpMethod::Post => millstream_http::Method::POST,
            HttpMethod::Put => millstream_http::Method::PUT,
            HttpMethod::Patch => millstream_http::Method::PATCH,
            HttpMethod::Delete => millstream_http::Method::DELETE,
        },
        headers: headers_of(&to.client).map_err(wrong)?,
        body: match to.body {
            HttpBody::Row => Body::Row,
            HttpBody::Array => Body::Array,
            HttpBody::Lines => Body::Lines,
        },
        batch_rows: to.batch_rows as usize,
        batch_bytes: to.batch_bytes.0 as usize,
        concurrency: to.concurrency as usize,
        gzip: to.gzip,
        idempotency: to
            .idempotency_header
            .as_deref()
            .map(header_name)
            .transpose()
            .map_err(wrong)?,
        pipeline: names.0.to_owned(),
        sink: names.1.to_owned(),
    };
    let client = client(&to.client, file, to.timeout.0, to.retries, ANSWER_BYTES);
    HttpTarget::open(Client::new(client, io.clone())?, options, columns)
}

/// The error is a sentence for the user.
pub fn header_name(text: &str) -> Result<millstream_http::HeaderName, String> {
    text.parse().map_err(|_| format!("`{text}` is not the name of a header"))
}

/// The options of a sink's files. The error is a sentence for the user.
pub fn files_options(
    to: &FilesTo,
    file: &PipelineFile,
    names: (&str, &str),
) -> Result<FilesOptions, String> {
    let compression = |given: FilesCompression| match given {
        FilesCompression::None => Compression::None,
        FilesCompression::Gzip => Compression::Gzip,
        FilesCompression::Zstd => Compression::Zstd,
        FilesCompression::Snappy => Compression::Snappy,
    };
    let given = to.compression.map(compression);
    Ok(FilesOptions {
        folder: Folder::parse(&file.resolve(&to.folder))?,
        date: to.date.clone(),
        format: match to.format {
            FilesFormat::Parquet => Format::Parquet(given.unwrap_or(Compression::Zstd)),
            FilesFormat::JsonLines => Format::JsonLines(given.unwrap_or(Compression::None)),
        },
        roll: Roll { rows: to.max_rows, bytes: to.max_bytes.0, after: to.max_time.0 },
        pipeline: names.0.to_owned(),
        sink: names.1.to_owned(),
    })
}

pub fn files(
    to: &FilesTo,
    file: &PipelineFile,
    names: (&str, &str),
    columns: SchemaRef,
    io: &Handle,
) -> Result<Arc<Files>> {
    let options = files_options(to, file, names).map_err(|why| Error::stop("sink", why))?;
    Files::open(options, columns, io.clone())
}

pub fn stdout(shown: StdoutFormat, columns: SchemaRef) -> Result<Box<dyn Sink>> {
    if is_closed(std::io::stdout()) {
        let told = "the standard output is closed, or a /dev/null that is opened for reading too: nobody \
                    would get the rows. Write `> /dev/null` where that is meant";
        return Err(Error::stop("stdout", told));
    }
    let shown = match shown {
        StdoutFormat::JsonLines => Shown::JsonLines,
        StdoutFormat::Table => Shown::Table,
    };
    let out = Output::stdout();
    let options = StdoutSinkOptions { shown, columns, out, nobody_reads: Arc::new(ask_to_end) };
    Ok(Box::new(StdoutSink::new(options)?))
}

/// A process that is started without one gets a `/dev/null` from Rust's runtime, for reading and writing.
/// A shell's `> /dev/null` is for writing only.
fn is_closed(output: impl AsFd) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fstat, stat};
    let both_ways = fcntl_getfl(&output).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR);
    let device = |found: rustix::fs::Stat| found.st_rdev;
    let (is, null) = (fstat(&output).map(device), stat("/dev/null").map(device));
    both_ways && is.is_ok() && is == null
}

/// As an operator would: what else is in flight is finished and committed.
fn ask_to_end() {
    use rustix::process::{Signal, getpid, kill_process};
    let _ = kill_process(getpid(), Signal::TERM);
    // The one who called is about to say that it cannot go on, and must not be heard before.
    std::thread::sleep(Duration::from_millis(100));
}
