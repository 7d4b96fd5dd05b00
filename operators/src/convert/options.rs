//! The settings of a conversion, as a pipeline's YAML writes them.

use penstock_engine::units;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConvertError;
use super::sink::EncodeOptions;

/// The settings of a conversion. All have defaults; unknown ones are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConvertOptions {
    /// How values become text.
    pub cast: Cast,
    /// Whether names keep their case.
    pub column_case: ColumnCase,
    /// How pages are compressed.
    pub compression: Compression,
    /// How hard the codec tries: gzip 0 to 9, brotli 0 to 11, zstd 1 to 22. By default as hard as the codec's authors
    /// advise; snappy and lz4 know no levels.
    pub compression_level: Option<u32>,
    /// How text is written that no dictionary shrinks.
    pub text_encoding: TextEncoding,
    /// Input bytes that make a part, by the files' sizes (a gz or zst file counts six times its own). A file larger than
    /// this is cut among parts.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub part_bytes: u64,
    /// Input bytes that make a row group, likewise; also what a row group holds at most before it is encoded.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub row_group_bytes: u64,
    /// Columns that the dataset may have. What a line has beyond them goes into `_rest`, as JSON.
    pub max_columns: usize,
    /// A longer line is a reject.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub max_line_bytes: u64,
    /// A line nested deeper is a reject. The line's own object is level 1.
    pub max_depth: usize,
    /// A file fails when more of its lines than this share are rejects.
    pub max_reject_ratio: f64,
    /// Rejects kept of one file; the rest is counted.
    pub max_rejects_per_file: u64,
    /// Bytes kept of a rejected line.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub max_reject_bytes: u64,
    /// Passes that may end with a failed file before each remaining file is checked alone.
    pub max_passes: u32,
    /// Memory that a conversion may use for encoding, read-ahead included.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub memory_limit_bytes: u64,
    /// Row groups that are worked on at once; by default as many as there are cores.
    pub target_partitions: Option<usize>,
    /// Whether parts hold the least and greatest value of each column chunk.
    pub statistics: bool,
    /// Whether parts hold an index of their pages, with their least and greatest values (if there are statistics).
    pub page_index: bool,
    /// Columns whose chunks have a Bloom filter, which tells of most values whether they are absent.
    pub bloom_filter_columns: Vec<String>,
    /// How often a Bloom filter fails to tell that a value is absent.
    pub bloom_filter_false_share: f64,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            cast: Cast::default(),
            column_case: ColumnCase::default(),
            compression: Compression::default(),
            compression_level: None,
            text_encoding: TextEncoding::default(),
            part_bytes: 1 << 30,
            row_group_bytes: 64 << 20,
            max_columns: 1000,
            max_line_bytes: 16 << 20,
            max_depth: 128,
            max_reject_ratio: 0.5,
            max_rejects_per_file: 1000,
            max_reject_bytes: 4 << 10,
            max_passes: 3,
            memory_limit_bytes: 1 << 30,
            target_partitions: None,
            statistics: true,
            page_index: true,
            bloom_filter_columns: Vec::new(),
            bloom_filter_false_share: 0.01,
        }
    }
}

impl ConvertOptions {
    /// Says what can't be right.
    pub fn check(&self) -> Result<(), ConvertError> {
        let wrong = |what: &str| Err(ConvertError::Invalid(what.to_owned()));
        if self.max_line_bytes == 0 || self.max_line_bytes > 1 << 30 {
            return wrong("max_line_bytes must be between 1B and 1GiB");
        }
        if !(1 << 20..=1 << 30).contains(&self.row_group_bytes) || self.part_bytes < self.row_group_bytes {
            return wrong(
                "row_group_bytes must be between 1MiB and 1GiB (it is held in memory), and part_bytes at least as much",
            );
        }
        if !(0.0..=1.0).contains(&self.max_reject_ratio) {
            return wrong("max_reject_ratio must be between 0 and 1");
        }
        // The longest names of so many fit into the dataset's item, which may hold 400 KB.
        if self.max_columns == 0 || self.max_columns > 1500 {
            return wrong("max_columns must be between 1 and 1500: keys past it go into _rest");
        }
        if self.max_depth == 0 || self.max_passes == 0 || self.target_partitions == Some(0) {
            return wrong("max_depth, max_passes and target_partitions must be at least 1");
        }
        if !(0.000_001..1.0).contains(&self.bloom_filter_false_share) {
            return wrong("bloom_filter_false_share must be between 0.000001 and 1");
        }
        if let Err(error) = self.encode().check() {
            return wrong(&format!("compression_level: {error}"));
        }
        Ok(())
    }

    /// How the sink writes columns.
    pub(crate) fn encode(&self) -> EncodeOptions {
        EncodeOptions {
            compression: self.compression,
            compression_level: self.compression_level,
            text_encoding: self.text_encoding,
            row_group_bytes: self.row_group_bytes as usize,
            statistics: self.statistics,
            page_index: self.page_index,
            bloom_filter_columns: self.bloom_filter_columns.clone(),
            bloom_filter_false_share: self.bloom_filter_false_share,
        }
    }

    pub(crate) fn partitions(&self) -> usize {
        self.target_partitions.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()))
    }
}

/// How values become text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cast {
    /// A string is its unescaped text; a number keeps its exact text; true and false as such; null and absent are null;
    /// objects and arrays are their exact JSON text.
    #[default]
    Lossless,
    /// What Spark 3.3's `read.json` and `cast("string")` printed: types are inferred per manifest, `1e10` in a column of
    /// doubles is `1.0E10`, a struct is `{1, y, null}`. A record that can't be read is a row with its text in
    /// `_corrupt_record`. Reads each file twice.
    Spark,
}

impl std::fmt::Display for Cast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lossless => "lossless",
            Self::Spark => "spark",
        })
    }
}

/// Whether names keep their case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnCase {
    /// `Id` and `id` are two columns.
    #[default]
    Preserve,
    /// Names are lower-cased; names that then are the same are one column.
    Lower,
}

/// How text is written that no dictionary shrinks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextEncoding {
    /// Lengths, then text (DELTA_LENGTH_BYTE_ARRAY): smaller and faster.
    #[default]
    DeltaLength,
    /// Each value after its length (PLAIN): for readers that know nothing else.
    Plain,
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Compression {
    Uncompressed,
    #[default]
    Snappy,
    Gzip,
    Brotli,
    Lz4,
    Zstd,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_as_people_write_them() {
        let text = r#"{"part_bytes": "256MiB", "column_case": "lower", "compression": "zstd"}"#;
        let options: ConvertOptions = serde_json::from_str(text).unwrap();
        assert_eq!((options.part_bytes, options.column_case), (256 << 20, ColumnCase::Lower));
        assert_eq!(options.max_passes, ConvertOptions::default().max_passes);
        options.check().unwrap();
        let again: ConvertOptions = serde_json::from_str(&serde_json::to_string(&options).unwrap()).unwrap();
        assert_eq!(again, options);
        assert!(serde_json::from_str::<ConvertOptions>(r#"{"part_size": "1MiB"}"#).is_err());
        let schema = serde_json::to_value(schemars::schema_for!(ConvertOptions)).unwrap();
        assert_eq!(schema["properties"]["part_bytes"]["type"], "string");
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn what_can_t_be_right_is_said() {
        let wrong = [
            ConvertOptions { max_line_bytes: 2 << 30, ..ConvertOptions::default() },
            ConvertOptions { part_bytes: 1 << 20, ..ConvertOptions::default() },
            ConvertOptions { row_group_bytes: 2 << 30, part_bytes: 4 << 30, ..ConvertOptions::default() },
            ConvertOptions { max_columns: 1501, ..ConvertOptions::default() },
            ConvertOptions { max_reject_ratio: 1.5, ..ConvertOptions::default() },
            ConvertOptions { target_partitions: Some(0), ..ConvertOptions::default() },
            ConvertOptions { bloom_filter_false_share: 0.0, ..ConvertOptions::default() },
            ConvertOptions { compression: Compression::Zstd, compression_level: Some(99), ..ConvertOptions::default() },
        ];
        assert!(wrong.iter().all(|options| options.check().is_err_and(|error| !error.is_transient())));
        ConvertOptions::default().check().unwrap();
    }
}
