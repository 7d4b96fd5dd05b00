//! One codec, kept from page to page: what it needs to work is allocated once.

use std::io::Write;

use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};

/// The window of Brotli, as a power of two.
const BROTLI_WINDOW: u32 = 22;

/// Compresses pages.
pub(super) enum Compressor {
    None,
    Snappy(Box<snap::raw::Encoder>),
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip(flate2::Compression),
    Brotli(u32),
}

impl Compressor {
    pub(super) fn new(codec: Compression) -> Result<Self> {
        Ok(match codec {
            Compression::UNCOMPRESSED => Self::None,
            Compression::SNAPPY => Self::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::LZ4_RAW => Self::Lz4,
            Compression::ZSTD(level) => Self::Zstd(zstd::bulk::Compressor::new(level.compression_level())?),
            Compression::GZIP(level) => Self::Gzip(flate2::Compression::new(level.compression_level())),
            Compression::BROTLI(level) => Self::Brotli(level.compression_level()),
            other => return Err(ParquetError::NYI(format!("pages compressed by {other}"))),
        })
    }

    /// Writes the compressed form of `page` over what `out` holds, and gives its length.
    pub(super) fn compress(&mut self, page: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        match self {
            Self::None => {
                out.clear();
                out.extend_from_slice(page);
                Ok(page.len())
            }
            Self::Snappy(snappy) => {
                let out = room(out, snap::raw::max_compress_len(page.len()));
                snappy.compress(page, out).map_err(external)
            }
            Self::Lz4 => {
                let out = room(out, lz4_flex::block::get_maximum_output_size(page.len()));
                lz4_flex::block::compress_into(page, out).map_err(external)
            }
            Self::Zstd(zstd) => {
                let out = room(out, zstd::zstd_safe::compress_bound(page.len()));
                Ok(zstd.compress_to_buffer(page, out)?)
            }
            Self::Gzip(level) => {
                out.clear();
                let mut gzip = flate2::write::GzEncoder::new(&mut *out, *level);
                gzip.write_all(page)?;
                gzip.finish()?;
                Ok(out.len())
            }
            Self::Brotli(level) => {
                out.clear();
                let mut brotli = brotli::CompressorWriter::new(&mut *out, 4096, *level, BROTLI_WINDOW);
                brotli.write_all(page)?;
                brotli.flush()?;
                drop(brotli);
                Ok(out.len())
            }
        }
    }
}

/// `out` with room for at least `most` bytes. What it holds already is not cleared.
fn room(out: &mut Vec<u8>, most: usize) -> &mut [u8] {
    if out.len() < most {
        out.resize(most, 0);
    }
    out
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}
