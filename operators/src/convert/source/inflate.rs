//! Compressed files: decompressed as a stream, on a thread of their own, beside the scan.
//!
//! Whatever a file expands to, only a few buffers of it exist at a time.

use std::io::{self, BufReader, Read};

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::chunks::{ChunkReader, ReadFault};
use crate::convert::FailureReason;

/// The size of a decompressed buffer.
const BUFFER_BYTES: usize = 1 << 20;

/// How a file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As it is.
    Plain,
    /// gzip, one member or several.
    Gzip,
    /// Zstandard, one frame or several.
    Zstd,
}

impl Encoding {
    /// By the end of its name.
    pub fn of(key: &str) -> Self {
        let ends_with = |suffix: &str| {
            key.len() >= suffix.len()
                && key.as_bytes()[key.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
        };
        if ends_with(".gz") {
            Self::Gzip
        } else if ends_with(".zst") {
            Self::Zstd
        } else {
            Self::Plain
        }
    }
}

/// The decompressed bytes of a file, in order.
#[derive(Debug)]
pub(super) struct InflateReader {
    inflated: mpsc::Receiver<io::Result<Bytes>>,
    feeder: Option<SpawnedTask<Result<(), ReadFault>>>,
    // Ends by itself when its channels close.
    _inflater: SpawnedTask<()>,
}

impl InflateReader {
    pub(super) fn new(mut chunks: ChunkReader, encoding: Encoding) -> Self {
        let (feed, fed) = mpsc::channel(1);
        let (inflate, inflated) = mpsc::channel(2);
        let feeder = SpawnedTask::spawn(async move {
            while let Some(chunk) = chunks.next().await? {
                if feed.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        let inflater = SpawnedTask::spawn_blocking(move || {
            let source = BufReader::with_capacity(64 << 10, FedReader { fed, chunk: Bytes::new() });
            if let Err(error) = decode(source, encoding, &inflate) {
                // Nobody listens any more: then the file doesn't matter either.
                if inflate.blocking_send(Err(error)).is_err() {
                    tracing::trace!("a decompression was given up");
                }
            }
        });
        Self { inflated, feeder: Some(feeder), _inflater: inflater }
    }

    /// The next bytes; none at the end of the file.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ReadFault> {
        let inflated = self.inflated.recv().await;
        if let Some(Ok(bytes)) = inflated {
            return Ok(Some(bytes));
        }
        // If the store cut the bytes short, that is the reason, and not the decompression's complaint about it.
        if let Some(feeder) = self.feeder.take() {
            self.inflated.close();
            feeder
                .join()
                .await
                .map_err(|error| ReadFault::Store(DataFusionError::ExecutionJoin(Box::new(error))))??;
        }
        match inflated {
            Some(Err(error)) => Err(ReadFault::File(FailureReason::Undecodable, error.to_string())),
            _ => Ok(None),
        }
    }
}

fn decode(source: impl io::BufRead, encoding: Encoding, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    match encoding {
        Encoding::Plain => pump(source, out),
        Encoding::Gzip => pump(flate2::bufread::MultiGzDecoder::new(source), out),
        Encoding::Zstd => pump(zstd::stream::read::Decoder::with_buffer(source)?, out),
    }
}

fn pump(mut source: impl Read, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    loop {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let filled = source.by_ref().take(BUFFER_BYTES as u64).read_to_end(&mut buffer);
        // What came before an error is still text: its lines count towards nothing, since the file fails.
        filled?;
        if buffer.is_empty() || out.blocking_send(Ok(Bytes::from(buffer))).is_err() {
            return Ok(());
        }
    }
}

/// The fetched chunks as a blocking reader.
struct FedReader {
    fed: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for FedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.fed.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.chunk.len());
        out[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}
