//! Limits what the WASI handles of a replica hold on the host.
//!
//! wasmtime limits the size of each WASI resource, but not their number. They are counted in the replica's table every few host
//! calls, so that only what those calls can create exceeds the limits.

use std::any::Any;
use std::fmt;

use http::HeaderMap;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::{DynInputStream, ReaddirIterator};
use wasmtime_wasi_http::p2::body::{HostFutureTrailers, HostOutgoingBody};
use wasmtime_wasi_http::p2::types::{
    HostFutureIncomingResponse, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::{FieldMap, p3};

/// Host calls between two counts.
pub(super) const CALLS_BETWEEN_COUNTS: u32 = 64;

/// Most bytes of headers, addresses and methods.
const MAX_FIELD_BYTES: usize = 8 << 20;
/// Most bodies that a guest writes.
const MAX_BODIES: usize = 256;
/// Most responses that a guest has or waits for. Connections limit those with unread bodies further.
const MAX_RESPONSES: usize = 1_000;
/// Most streams that a guest reads. Each may hold 64 KiB of a file.
const MAX_INPUT_STREAMS: usize = 256;
/// Most open files and folders; each is a file descriptor of the server.
const MAX_FILES: usize = 256;
/// Most listings of folders; each holds all names of its folder.
const MAX_LISTINGS: usize = 16;

/// A kind of resource, with its limit per replica.
struct Kind {
    name: &'static str,
    limit: usize,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "bytes of HTTP headers, methods and addresses",
        limit: MAX_FIELD_BYTES,
    },
    Kind {
        name: "HTTP bodies that it writes",
        limit: MAX_BODIES,
    },
    Kind {
        name: "HTTP responses",
        limit: MAX_RESPONSES,
    },
    Kind {
        name: "streams that it reads",
        limit: MAX_INPUT_STREAMS,
    },
    Kind {
        name: "open files and folders",
        limit: MAX_FILES,
    },
    Kind {
        name: "listings of folders",
        limit: MAX_LISTINGS,
    },
];
const FIELD_BYTES: usize = 0;
const BODIES: usize = 1;
const RESPONSES: usize = 2;
const INPUT_STREAMS: usize = 3;
const FILES: usize = 4;
const LISTINGS: usize = 5;

/// What a replica holds, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings([usize; KINDS.len()]);

/// A kind of resource above its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    kind: usize,
    held: usize,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind { name, limit } = KINDS[self.kind];
        write!(
            f,
            "it holds {} {name}; the limit is {limit}; drop what is no longer needed",
            self.held
        )
    }
}

impl Holdings {
    /// Counts the resources in a replica's table.
    pub fn count(table: &mut ResourceTable) -> Self {
        let mut holdings = Self::default();
        for resource in table.iter_mut() {
            holdings.add(resource);
        }
        holdings
    }

    /// The first kind above its limit.
    pub fn excess(&self) -> Option<Excess> {
        let held = self.0.iter().zip(&KINDS).enumerate();
        let mut over = held.filter(|(_, (held, kind))| **held > kind.limit);
        over.next()
            .map(|(kind, (held, _))| Excess { kind, held: *held })
    }

    /// Whether the guest holds a body that it writes or can send.
    pub fn has_bodies(&self) -> bool {
        self.0[BODIES] > 0 || self.0[RESPONSES] > 0
    }

    fn add(&mut self, resource: &(dyn Any + Send)) {
        let held = &mut self.0;
        if let Some(fields) = resource.downcast_ref::<FieldMap>() {
            held[FIELD_BYTES] += bytes(fields);
        } else if let Some(request) = resource.downcast_ref::<HostOutgoingRequest>() {
            held[FIELD_BYTES] += bytes(&request.headers);
            held[FIELD_BYTES] += request.path_with_query.as_ref().map_or(0, String::len);
            held[FIELD_BYTES] += request.authority.as_ref().map_or(0, String::len);
            held[BODIES] += usize::from(request.body.is_some());
        } else if let Some(response) = resource.downcast_ref::<HostOutgoingResponse>() {
            held[FIELD_BYTES] += bytes(&response.headers);
            held[BODIES] += usize::from(response.body.is_some());
        } else if let Some(response) = resource.downcast_ref::<HostIncomingResponse>() {
            held[FIELD_BYTES] += bytes(&response.headers);
            held[RESPONSES] += 1;
        } else if let Some(request) = resource.downcast_ref::<p3::Request>() {
            held[FIELD_BYTES] += bytes(&request.headers);
            held[FIELD_BYTES] += request
                .path_with_query
                .as_ref()
                .map_or(0, |path| path.as_str().len());
            held[FIELD_BYTES] += request
                .authority
                .as_ref()
                .map_or(0, |authority| authority.as_str().len());
        } else if let Some(response) = resource.downcast_ref::<p3::Response>() {
            held[FIELD_BYTES] += bytes(&response.headers);
        } else if resource.is::<HostOutgoingBody>() {
            held[BODIES] += 1;
        } else if let Some(response) = resource.downcast_ref::<HostFutureIncomingResponse>() {
            if let HostFutureIncomingResponse::Ready(Ok((response, _))) = response {
                held[FIELD_BYTES] += map_bytes(response.headers());
            }
            held[RESPONSES] += 1;
        } else if let Some(trailers) = resource.downcast_ref::<HostFutureTrailers>() {
            if let HostFutureTrailers::Done(Ok(Some(trailers))) = trailers {
                held[FIELD_BYTES] += map_bytes(trailers);
            }
            held[RESPONSES] += 1;
        } else if resource.is::<DynInputStream>() {
            held[INPUT_STREAMS] += 1;
        } else if resource.is::<Descriptor>() {
            held[FILES] += 1;
        } else if resource.is::<ReaddirIterator>() {
            held[LISTINGS] += 1;
        }
    }
}

fn bytes(fields: &FieldMap) -> usize {
    map_bytes(fields)
}

/// Bytes of a set of headers, including the map's entries.
fn map_bytes(headers: &HeaderMap) -> usize {
    const ENTRY: usize = 104;
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ENTRY)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn fields(bytes: usize) -> FieldMap {
        let mut map = HeaderMap::new();
        map.insert("x", HeaderValue::from_bytes(&vec![b'y'; bytes]).unwrap());
        FieldMap::new_immutable(wasmtime_wasi_http::default_hooks(), map)
    }

    #[test]
    fn headers_are_counted_up_to_their_limit() {
        let mut table = ResourceTable::new();
        assert_eq!(Holdings::count(&mut table).excess(), None);
        let mut pushed = 0;
        let excess = loop {
            table.push(fields(64 << 10)).unwrap();
            pushed += 1;
            if let Some(excess) = Holdings::count(&mut table).excess() {
                break excess;
            }
        };
        assert_eq!(pushed, MAX_FIELD_BYTES / (64 << 10));
        assert!(
            excess.to_string().contains("bytes of HTTP headers"),
            "{excess}"
        );
    }

    #[test]
    fn bodies_are_counted_wherever_they_are() {
        let mut table = ResourceTable::new();
        assert!(!Holdings::count(&mut table).has_bodies());
        let (_body, sent) = HostOutgoingBody::new(
            wasmtime_wasi_http::p2::body::StreamContext::Response,
            None,
            1,
            1,
        );
        let response = HostOutgoingResponse {
            status: http::StatusCode::OK,
            headers: fields(1),
            body: Some(sent),
        };
        table.push(response).unwrap();
        assert!(Holdings::count(&mut table).has_bodies());
    }
}
