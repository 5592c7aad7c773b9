//! From the options of TLS to its files.

use millstream_config::{Pipeline as PipelineFile, TlsSpec};
use millstream_tls::TlsOptions;
use std::path::PathBuf;

pub fn options(spec: &TlsSpec, file: &PipelineFile) -> TlsOptions {
    let resolve = |path: &Option<PathBuf>| path.as_ref().map(|path| file.resolve(path));
    TlsOptions {
        ca: resolve(&spec.ca),
        certificate: resolve(&spec.certificate),
        key: resolve(&spec.key),
    }
}
