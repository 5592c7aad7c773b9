//! A `.proto` file as it is written, which the registry reads too.

pub(super) use millstream_schemas::protobuf::parse::*;
