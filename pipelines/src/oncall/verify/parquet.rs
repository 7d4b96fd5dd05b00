//! The number of rows of a Parquet object, from its footer alone: two small reads, whatever its size.

use anyhow::{Context, bail};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::file::metadata::ParquetMetaDataReader;

/// The length and the magic at the end of a Parquet file.
const TAIL_BYTES: u64 = 8;

/// The largest footer that is read.
const MAX_FOOTER_BYTES: u64 = 64 << 20;

/// Rows of a Parquet object of this size.
pub async fn rows(store: &dyn ObjectStore, key: &str, size_bytes: u64) -> anyhow::Result<u64> {
    let path = Path::from(key);
    if size_bytes < TAIL_BYTES {
        bail!("it is too short for a Parquet file");
    }
    let tail = store.get_range(&path, size_bytes - TAIL_BYTES..size_bytes).await.context("its end can't be read")?;
    let (length, magic) = tail.split_at(4.min(tail.len()));
    let length: [u8; 4] = length.try_into().context("its end can't be read whole")?;
    if magic != b"PAR1" {
        bail!("it doesn't end as a Parquet file does");
    }
    let length = u64::from(u32::from_le_bytes(length));
    if length > MAX_FOOTER_BYTES || length + TAIL_BYTES > size_bytes {
        bail!("its footer can't be {length} bytes long");
    }
    let end = size_bytes - TAIL_BYTES;
    let footer = store.get_range(&path, end - length..end).await.context("its footer can't be read")?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).context("its footer can't be understood")?;
    Ok(metadata.row_groups().iter().map(|group| group.num_rows().max(0) as u64).sum())
}
