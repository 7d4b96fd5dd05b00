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

    /// The compressed form of `page`; `room` is room to work in.
    pub(super) fn compress(&mut self, page: &[u8], room: &mut Vec<u8>) -> Result<Vec<u8>> {
        match self {
            Self::None => Ok(page.to_vec()),
            Self::Snappy(snappy) => {
                let most = snap::raw::max_compress_len(page.len());
                if room.len() < most {
                    room.resize(most, 0);
                }
                let length = snappy.compress(page, room).map_err(external)?;
                Ok(room[..length].to_vec())
            }
            Self::Lz4 => Ok(lz4_flex::block::compress(page)),
            Self::Zstd(zstd) => Ok(zstd.compress(page)?),
            Self::Gzip(level) => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::with_capacity(page.len() / 2), *level);
                gzip.write_all(page)?;
                Ok(gzip.finish()?)
            }
            Self::Brotli(level) => {
                let mut out = Vec::with_capacity(page.len() / 2);
                let mut brotli = brotli::CompressorWriter::new(&mut out, 4096, *level, BROTLI_WINDOW);
                brotli.write_all(page)?;
                brotli.flush()?;
                drop(brotli);
                Ok(out)
            }
        }
    }
}

fn external(error: snap::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
