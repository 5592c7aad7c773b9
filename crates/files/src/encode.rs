//! Rows into the bytes of a file.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use flate2::write::GzEncoder;
use millstream_core::fault;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};

/// What a Parquet writer holds in memory before it writes a row group.
const ROW_GROUP_BYTES: usize = 32 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Parquet(Compression),
    JsonLines(Compression),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    /// In Parquet only.
    Snappy,
}

impl Format {
    pub fn extension(self) -> &'static str {
        match self {
            Format::Parquet(_) => "parquet",
            Format::JsonLines(Compression::Gzip) => "jsonl.gz",
            Format::JsonLines(Compression::Zstd) => "jsonl.zst",
            Format::JsonLines(_) => "jsonl",
        }
    }
}

/// One file's writer.
pub(crate) enum Writer {
    Parquet(Box<ArrowWriter<Counted>>),
    Plain(Counted),
    Gzip(Box<GzEncoder<Counted>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Counted>>),
}

/// A file, and how much went into it.
pub(crate) struct Counted {
    file: BufWriter<File>,
    bytes: u64,
}

impl Writer {
    pub fn new(file: File, format: Format, columns: &SchemaRef) -> io::Result<Writer> {
        let file = Counted { file: BufWriter::with_capacity(64 << 10, file), bytes: 0 };
        Ok(match format {
            Format::Parquet(compression) => {
                let codec = match compression {
                    Compression::None => Codec::UNCOMPRESSED,
                    Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
                    // Gzip is not built in.
                    Compression::Snappy | Compression::Gzip => Codec::SNAPPY,
                };
                let properties = WriterProperties::builder().set_compression(codec).build();
                let writer = ArrowWriter::try_new(file, columns.clone(), Some(properties));
                Writer::Parquet(Box::new(writer?))
            }
            Format::JsonLines(Compression::Gzip) => {
                Writer::Gzip(Box::new(GzEncoder::new(file, flate2::Compression::default())))
            }
            Format::JsonLines(Compression::Zstd) => {
                Writer::Zstd(Box::new(zstd::stream::write::Encoder::new(file, 0)?))
            }
            Format::JsonLines(_) => Writer::Plain(file),
        })
    }

    pub fn rows(&mut self, rows: &RecordBatch) -> io::Result<()> {
        let Writer::Parquet(writer) = self else {
            return Err(io::Error::other("lines are written as text"));
        };
        writer.write(rows)?;
        if writer.memory_size() > ROW_GROUP_BYTES {
            writer.flush()?;
        }
        Ok(())
    }

    pub fn lines(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Writer::Parquet(_) => Err(io::Error::other("rows are written as columns")),
            Writer::Plain(file) => file.write_all(lines),
            Writer::Gzip(file) => file.write_all(lines),
            Writer::Zstd(file) => file.write_all(lines),
        }
    }

    /// How long the file is, about.
    pub fn bytes(&self) -> u64 {
        match self {
            Writer::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
            Writer::Plain(file) => file.bytes,
            Writer::Gzip(file) => file.get_ref().bytes,
            Writer::Zstd(file) => file.get_ref().bytes,
        }
    }

    /// Ends the file and makes its content durable.
    pub fn finish(self) -> io::Result<u64> {
        let mut counted = match self {
            Writer::Parquet(writer) => writer.into_inner()?,
            Writer::Plain(file) => file,
            Writer::Gzip(file) => file.finish()?,
            Writer::Zstd(file) => file.finish()?,
        };
        counted.flush()?;
        let file = counted.file.into_inner().map_err(|error| error.into_error())?;
        if !fault::bug("files_not_synced") {
            file.sync_all()?;
        }
        Ok(counted.bytes)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if fault::disk_is_full() {
            return Err(ErrorKind::StorageFull.into());
        }
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
