//! Which bytes go into which row group of which part: a pure function of the files and the options, never of cores.

use std::ops::Range;

use super::source::{Encoding, ScanFile, ScanRange};
use super::{ConvertOptions, InputFile, OutputName};

/// How much more a compressed file weighs than its size says.
const COMPRESSED_WEIGHT: u64 = 6;

/// No cut leaves less of a file than this on either side.
const LEAST_RANGE_BYTES: u64 = 1 << 20;

/// A part is cut into up to [`MANY`] row groups for more cores, but not into smaller ones than this.
const LEAST_ROW_GROUP_BYTES: u64 = 16 << 20;
const MANY: u64 = 8;

/// The cuts of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The ranges of each scan partition; each becomes at least one row group, if it has rows.
    pub(crate) partitions: Vec<Vec<ScanRange>>,
    /// The partitions of each part.
    pub(crate) parts: Vec<Range<usize>>,
}

/// Cuts `files`, given with their positions in the conversion, into parts and partitions.
pub(crate) fn lay_out(files: &[(u32, &InputFile)], output: &OutputName, options: &ConvertOptions) -> Layout {
    let segments: Vec<_> = files.iter().map(|(index, file)| Segment::of(*index, file)).collect();
    let parts = match output {
        OutputName::Parts(_) => weight(&segments).div_ceil(options.part_bytes),
        OutputName::Single(_) => 1,
    };
    let mut layout = Layout { partitions: Vec::new(), parts: Vec::new() };
    for part in cut(segments, parts) {
        let weight = weight(&part);
        let row_groups = weight.div_ceil(options.row_group_bytes).max(MANY.min(weight / LEAST_ROW_GROUP_BYTES));
        let begin = layout.partitions.len();
        for group in cut(part, row_groups) {
            layout.partitions.push(group.into_iter().map(Segment::into_range).collect());
        }
        layout.parts.push(begin..layout.partitions.len());
    }
    layout
}

/// A file or a piece of one. There may be very many, and they are moved about.
#[derive(Debug, Clone, Copy)]
struct Segment<'a> {
    index: u32,
    file: &'a InputFile,
    encoding: Encoding,
    start: u64,
    end: u64,
}

impl<'a> Segment<'a> {
    fn of(index: u32, file: &'a InputFile) -> Self {
        Self { index, file, encoding: Encoding::of(&file.key), start: 0, end: file.size_bytes }
    }

    fn can_be_cut(&self) -> bool {
        self.encoding == Encoding::Plain
    }

    fn weight(&self) -> u64 {
        let bytes = self.end - self.start;
        if self.can_be_cut() { bytes } else { bytes.saturating_mul(COMPRESSED_WEIGHT) }
    }

    fn into_range(self) -> ScanRange {
        let file = self.file;
        let whole = self.start == 0 && self.end == file.size_bytes;
        ScanRange {
            key: file.key.clone(),
            size_bytes: file.size_bytes,
            etag: file.etag.clone(),
            version: file.version.clone(),
            range: (!whole).then_some((self.start, self.end)),
            file: ScanFile { index: self.index, uri: file.uri.clone(), encoding: self.encoding },
        }
    }
}

fn weight(segments: &[Segment]) -> u64 {
    segments.iter().map(Segment::weight).fold(0, u64::saturating_add)
}

/// Cuts segments into at most `pieces` pieces of about the same weight, in order. A file that can't be cut goes where its
/// middle lies. No piece is empty.
fn cut(segments: Vec<Segment<'_>>, pieces: u64) -> Vec<Vec<Segment<'_>>> {
    let total = weight(&segments);
    let pieces = pieces.max(1);
    let boundary = |piece: u64| (u128::from(total) * u128::from(piece) / u128::from(pieces)) as u64;
    let mut cut = vec![Vec::new()];
    let (mut at, mut piece) = (0, 1);
    let close = |cut: &mut Vec<Vec<Segment<'_>>>| {
        if cut.last().is_some_and(|last| !last.is_empty()) {
            cut.push(Vec::new());
        }
    };
    for mut segment in segments {
        while piece < pieces && at + segment.weight() > boundary(piece) {
            let before = boundary(piece).saturating_sub(at);
            let after = at + segment.weight() - boundary(piece);
            if segment.can_be_cut() && before >= LEAST_RANGE_BYTES && after >= LEAST_RANGE_BYTES {
                let mut head = segment;
                head.end = segment.start + before;
                segment.start = head.end;
                at += before;
                if let Some(last) = cut.last_mut() {
                    last.push(head);
                }
            } else if before >= after {
                // Most of it lies before the boundary: it stays whole, and the piece ends after it.
                break;
            }
            close(&mut cut);
            piece += 1;
        }
        at += segment.weight();
        if let Some(last) = cut.last_mut() {
            last.push(segment);
        }
        while piece < pieces && at >= boundary(piece) {
            close(&mut cut);
            piece += 1;
        }
    }
    cut.retain(|segments| !segments.is_empty());
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(key: &str, size_bytes: u64) -> InputFile {
        InputFile {
            uri: format!("s3://in/{key}"),
            key: key.to_owned(),
            size_bytes,
            etag: None,
            version: None,
            file_key: key.to_owned(),
        }
    }

    fn parts(files: &[InputFile], options: &ConvertOptions) -> Layout {
        let files: Vec<_> = files.iter().enumerate().map(|(index, file)| (index as u32, file)).collect();
        lay_out(&files, &OutputName::Parts("out".to_owned()), options)
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_range_and_in_order(
            sizes in proptest::collection::vec((0_u64..200 << 20, prop::bool::weighted(0.2)), 0..30),
            part_mib in 64_u64..512,
        ) {
            let files: Vec<_> = sizes
                .iter()
                .map(|(size, gz)| file(if *gz { "a.ndjson.gz" } else { "a.ndjson" }, *size))
                .collect();
            let options = ConvertOptions { part_bytes: part_mib << 20, ..ConvertOptions::default() };
            let layout = parts(&files, &options);
            let mut next = (0_u32, 0_u64);
            for range in layout.partitions.iter().flatten() {
                let size = files[next.0 as usize].size_bytes;
                let (start, end) = range.range.unwrap_or((0, size));
                prop_assert_eq!((range.file.index, start), next);
                prop_assert!(range.file.encoding == Encoding::Plain || range.range.is_none());
                next = if end == size { (next.0 + 1, 0) } else { (next.0, end) };
            }
            prop_assert_eq!(next, (files.len() as u32, 0));
            let covered: Vec<_> = layout.parts.iter().cloned().flatten().collect();
            prop_assert_eq!(covered, (0..layout.partitions.len()).collect::<Vec<_>>());
            prop_assert!(layout.partitions.iter().all(|partition| !partition.is_empty()));
            let total: u64 = files.iter().map(|file| Segment::of(0, file).weight()).sum();
            prop_assert!(layout.parts.len() as u64 <= total.div_ceil(options.part_bytes).max(1));
        }
    }

    #[test]
    fn a_large_file_is_cut_evenly() {
        let layout = parts(&[file("a.ndjson", 2500 << 20)], &ConvertOptions::default());
        assert_eq!(layout.parts.len(), 3);
        assert_eq!(layout.partitions.len(), 42);
        let sizes: Vec<_> = layout.partitions.iter().map(|partition| partition[0].range.unwrap()).collect();
        assert!(sizes.iter().all(|(start, end)| (59 << 20..61 << 20).contains(&(end - start))));
    }

    #[test]
    fn small_files_share_row_groups() {
        let files: Vec<_> = (0..200).map(|_| file("a.ndjson", 1 << 20)).collect();
        let layout = parts(&files, &ConvertOptions::default());
        assert_eq!((layout.parts.len(), layout.partitions.len()), (1, 8));
        assert!(layout.partitions.iter().all(|partition| partition.len() == 25));
    }
}
