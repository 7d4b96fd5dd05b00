//! The encoded pages of a row group, one after the other as they were ended, whatever their column: so no column has a
//! buffer of its own that grows, and 500 columns take no more memory than one.

use std::io::{self, Read, Write};
use std::ops::Range;

use bytes::Bytes;
use parquet::errors::Result;
use parquet::file::reader::{ChunkReader, Length};

use crate::convert::buffers::{Buffer, BufferPool};

/// The size of a block.
const BLOCK_BYTES: usize = 1 << 20;

/// Pages in blocks.
#[derive(Debug)]
pub(in super::super) struct Pages {
    pool: BufferPool,
    blocks: Vec<Buffer>,
    end: usize,
}

impl Pages {
    pub(super) fn new(pool: BufferPool) -> Self {
        Self { pool, blocks: Vec::new(), end: 0 }
    }

    /// Where what is written next will begin.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    pub(in super::super) fn memory_bytes(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }

    /// What is held from `at` on, up to `end` or the end of its block.
    fn piece(&self, at: usize, end: usize) -> &[u8] {
        let in_block = at % BLOCK_BYTES;
        let length = (end - at).min(BLOCK_BYTES - in_block);
        self.blocks.get(at / BLOCK_BYTES).map_or(&[], |block| &block[in_block..in_block + length])
    }
}

impl Write for &mut Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = self.end % BLOCK_BYTES;
        if at == 0 && self.end / BLOCK_BYTES == self.blocks.len() {
            self.blocks.push(self.pool.take(BLOCK_BYTES));
        }
        let length = bytes.len().min(BLOCK_BYTES - at);
        if let Some(block) = self.blocks.last_mut() {
            block[at..at + length].copy_from_slice(&bytes[..length]);
        }
        self.end += length;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The pages of one column chunk, in order, read as if they were one file.
pub(super) struct ChunkPages<'a> {
    pub(super) pages: &'a Pages,
    pub(super) places: &'a [Range<usize>],
}

impl Length for ChunkPages<'_> {
    fn len(&self) -> u64 {
        self.places.iter().map(|place| place.len() as u64).sum()
    }
}

impl<'a> ChunkReader for ChunkPages<'a> {
    type T = PagesReader<'a>;

    fn get_read(&self, start: u64) -> Result<PagesReader<'a>> {
        let mut reader = PagesReader { pages: self.pages, places: self.places, at: 0 };
        io::copy(&mut reader.by_ref().take(start), &mut io::sink())?;
        Ok(reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Reads pages.
pub(super) struct PagesReader<'a> {
    pages: &'a Pages,
    /// Those that are still to be read, the first of them from `at` on.
    places: &'a [Range<usize>],
    at: usize,
}

impl Read for PagesReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some((place, rest)) = self.places.split_first() {
            let piece = self.pages.piece(place.start + self.at, place.end);
            if piece.is_empty() {
                (self.places, self.at) = (rest, 0);
                continue;
            }
            let length = piece.len().min(out.len());
            out[..length].copy_from_slice(&piece[..length]);
            self.at += length;
            return Ok(length);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_a_column_are_read_in_order_from_anywhere() {
        let mut pages = Pages::new(BufferPool::default());
        let mut expected = Vec::new();
        let mut places = Vec::new();
        for page in 0..40_usize {
            let bytes: Vec<u8> = (0..page * 4001).map(|at| (at * 7 + page) as u8).collect();
            let begin = pages.end();
            (&mut pages).write_all(&bytes).unwrap();
            // Every other page is of another column.
            if page % 2 == 1 {
                places.push(begin..pages.end());
                expected.extend(bytes);
            }
        }
        assert!(pages.blocks.len() > 2);
        let chunk = ChunkPages { pages: &pages, places: &places };
        assert_eq!(chunk.len(), expected.len() as u64);
        for start in [0, 1, 4000, 4001, 4002, 1_000_000, expected.len()] {
            let mut read = Vec::new();
            chunk.get_read(start as u64).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, expected[start..]);
        }
        assert_eq!(chunk.get_bytes(5, 100_000).unwrap(), expected[5..100_005]);
        assert!(chunk.get_bytes(5, expected.len()).is_err());
    }
}
