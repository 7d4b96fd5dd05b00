//! Writes one part: its scan partitions run beside each other, each encoding its own row groups, which are appended in
//! the partitions' order.
//!
//! A partition is scanned and encoded by one task, so what was just scanned is encoded while it is still in the cache. A
//! task that is ahead waits with its finished row group until those before it are written: that bounds the memory.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::Result;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::Count;
use futures::StreamExt;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::file::metadata::KeyValue;
use parquet::file::writer::SerializedFileWriter;
use tokio::sync::mpsc;

use super::ParquetParts;
use super::encode::{RowGroup, RowGroupEncoder};
use super::upload::{Outlets, PartUpload, UploadGuard, part_bytes};
use crate::convert::buffers::{Buffer, BufferPool};
use crate::convert::error::parquet_error;
use crate::convert::note::{self, Note, PartOutcome};
use crate::convert::source::SCAN_BYTES;

/// A row group is not ended for want of memory before it holds this much text.
const LEAST_ROW_GROUP_BYTES: usize = 1 << 20;

/// Notes are handed over when they hold this much text, else along with a row group: a task that is ahead must not wait to
/// get rid of a few.
const NOTES_BYTES: usize = 1 << 20;

/// Everything that writing a part needs.
pub(super) struct PartTask {
    pub(super) node: Arc<ParquetParts>,
    pub(super) part: usize,
    pub(super) partitions: Range<usize>,
    pub(super) input: Arc<dyn ExecutionPlan>,
    pub(super) schema: SchemaRef,
    pub(super) context: Arc<TaskContext>,
    pub(super) outlets: Arc<Outlets>,
    /// Whether this pass can't be the last one: nothing more is written, but all is read.
    pub(super) spoiled: Arc<AtomicBool>,
    pub(super) buffers: BufferPool,
    pub(super) rows: Count,
}

/// What a partition's task hands over, in order.
struct Item {
    /// Batches of notes.
    notes: Vec<RecordBatch>,
    // The reservation goes along with the memory.
    row_group: Option<(RowGroup, MemoryReservation)>,
}

/// A partition's task, and what it hands over.
struct Running {
    items: mpsc::Receiver<Item>,
    task: SpawnedTask<Result<()>>,
    _scan_memory: MemoryReservation,
}

impl PartTask {
    /// Writes the part and tells its notes in order, its own outcome last.
    pub(super) async fn run(self, notes: mpsc::Sender<Result<RecordBatch>>) -> Result<()> {
        // Half as many again as can run at once: when one that is ahead has finished, another goes on in its place.
        let window = self.context.session_config().target_partitions().max(1);
        let window = window + window.div_ceil(2);
        let mut waiting = self.partitions.clone();
        let mut running: VecDeque<Running> = VecDeque::new();
        let mut file: Option<PartFile> = None;
        loop {
            while running.len() < window && !waiting.is_empty() {
                let memory = self.reservation("scan");
                if memory.try_grow(SCAN_BYTES).is_err() {
                    if !running.is_empty() {
                        break;
                    }
                    // One at a time must always go.
                    memory.grow(SCAN_BYTES);
                }
                if let Some(partition) = waiting.next() {
                    running.push_back(self.start(partition, memory));
                }
            }
            let Some(first) = running.front_mut() else { break };
            match first.items.recv().await {
                Some(item) => {
                    for told in item.notes {
                        self.pass_on(&notes, told).await?;
                    }
                    if let Some((row_group, _memory)) = item.row_group.filter(|_| !self.is_spoiled()) {
                        let mut open = match file.take() {
                            Some(open) => open,
                            None => PartFile::begin(&self).await?,
                        };
                        open.append(row_group).await?;
                        file = Some(open);
                    }
                }
                None => {
                    if let Some(ended) = running.pop_front() {
                        ended.task.join().await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??;
                    }
                }
            }
            if self.is_spoiled() {
                // Dropping it aborts its upload.
                file = None;
            }
        }
        let Some(file) = file else { return Ok(()) };
        let (guard, outcome) = file.finish(self.part).await?;
        self.tell(&notes, &[Note::Part(outcome)]).await?;
        // The channel holds one batch: when this one has gone in, the outcome has been taken out, and whoever took it has
        // its upload.
        self.tell(&notes, &[]).await?;
        guard.release();
        Ok(())
    }

    fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Relaxed)
    }

    fn reservation(&self, what: &str) -> MemoryReservation {
        MemoryConsumer::new(format!("ParquetPartsExec {what}")).register(self.context.memory_pool())
    }

    async fn tell(&self, notes: &mpsc::Sender<Result<RecordBatch>>, told: &[Note]) -> Result<()> {
        self.pass_on(notes, note::to_batch(told, &note::schema())?).await
    }

    async fn pass_on(&self, notes: &mpsc::Sender<Result<RecordBatch>>, batch: RecordBatch) -> Result<()> {
        let gone = |_| datafusion::common::exec_datafusion_err!("nobody takes the notes of part {}", self.part);
        notes.send(Ok(batch)).await.map_err(gone)
    }

    fn start(&self, partition: usize, scan_memory: MemoryReservation) -> Running {
        let (hand_over, items) = mpsc::channel(1);
        let encoding = PartitionTask {
            node: self.node.clone(),
            input: self.input.clone(),
            partition,
            schema: self.schema.clone(),
            context: self.context.clone(),
            spoiled: self.spoiled.clone(),
            buffers: self.buffers.clone(),
            rows: self.rows.clone(),
            memory: self.reservation("encode"),
            hand_over,
        };
        Running { items, task: SpawnedTask::spawn(encoding.run()), _scan_memory: scan_memory }
    }
}

/// Scans a partition and encodes its row groups.
struct PartitionTask {
    node: Arc<ParquetParts>,
    input: Arc<dyn ExecutionPlan>,
    partition: usize,
    schema: SchemaRef,
    context: Arc<TaskContext>,
    spoiled: Arc<AtomicBool>,
    buffers: BufferPool,
    rows: Count,
    memory: MemoryReservation,
    hand_over: mpsc::Sender<Item>,
}

impl PartitionTask {
    async fn run(self) -> Result<()> {
        let mut batches = self.input.execute(self.partition, self.context.clone())?;
        let columns = ArrowSchemaConverter::new().convert(&self.schema).map_err(parquet_error)?;
        let mut encoder: Option<RowGroupEncoder> = None;
        let mut told = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            // A batch is some milliseconds of work: the process has other things to do in between, such as heartbeats.
            tokio::task::yield_now().await;
            let notes = note::from_batch(&batch)?;
            if !notes.is_empty() {
                if notes.iter().any(|note| match note {
                    Note::Spoiled => true,
                    Note::Range(outcome) => outcome.spoils(),
                    _ => false,
                }) {
                    self.spoiled.store(true, Ordering::Relaxed);
                }
                told.push(batch.project(&[batch.num_columns() - 1])?);
                if told.iter().map(RecordBatch::get_array_memory_size).sum::<usize>() >= NOTES_BYTES {
                    self.hand_over(Item { notes: std::mem::take(&mut told), row_group: None }).await?;
                }
                continue;
            }
            self.rows.add(batch.num_rows());
            if !self.node.write || self.spoiled.load(Ordering::Relaxed) {
                encoder = None;
                self.memory.free();
                continue;
            }
            let mut growing = match encoder.take() {
                Some(growing) => growing,
                None => {
                    RowGroupEncoder::new(&columns, &self.node.encode, &batch, &self.buffers).map_err(parquet_error)?
                }
            };
            growing.write(&batch).map_err(parquet_error)?;
            let memory_bytes = growing.memory_bytes();
            let refused = self.memory.try_resize(memory_bytes).is_err();
            if growing.text_bytes >= self.node.encode.row_group_bytes
                || refused && growing.text_bytes >= LEAST_ROW_GROUP_BYTES
            {
                self.end_row_group(growing, std::mem::take(&mut told)).await?;
                continue;
            }
            if refused {
                self.memory.resize(memory_bytes);
            }
            encoder = Some(growing);
        }
        match encoder {
            Some(encoder) => self.end_row_group(encoder, told).await,
            None => self.hand_over(Item { notes: told, row_group: None }).await,
        }
    }

    async fn end_row_group(&self, encoder: RowGroupEncoder, notes: Vec<RecordBatch>) -> Result<()> {
        let row_group = encoder.close().map_err(parquet_error)?;
        // The memory is used already; what is asked is only that it be counted.
        self.memory.resize(row_group.memory_bytes());
        let memory = self.memory.split(self.memory.size());
        self.hand_over(Item { notes, row_group: Some((row_group, memory)) }).await
    }

    async fn hand_over(&self, item: Item) -> Result<()> {
        let gone = |_| datafusion::common::exec_datafusion_err!("the part of partition {} ended", self.partition);
        self.hand_over.send(item).await.map_err(gone)
    }
}

/// A Parquet file while it is written.
struct PartFile {
    writer: SerializedFileWriter<Blocks>,
    upload: PartUpload,
    rows: u64,
    row_groups: usize,
}

/// What has been written and isn't on its way yet, in blocks that are parts of the upload.
struct Blocks {
    pool: BufferPool,
    /// The block that grows: which part it will be, and how far it is filled.
    number: u32,
    block: Option<Buffer>,
    filled: usize,
    full: Vec<Bytes>,
}

impl Blocks {
    fn new(pool: BufferPool) -> Self {
        Self { pool, number: 1, block: None, filled: 0, full: Vec::new() }
    }

    /// The block that grows ends here.
    fn end_block(&mut self) {
        let filled = std::mem::take(&mut self.filled);
        self.number += 1;
        self.full.extend(self.block.take().map(|block| block.into_bytes(filled)));
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = part_bytes(self.number);
        let block = self.block.get_or_insert_with(|| self.pool.take(size));
        let length = bytes.len().min(size - self.filled);
        block[self.filled..self.filled + length].copy_from_slice(&bytes[..length]);
        self.filled += length;
        if self.filled == size {
            self.end_block();
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PartFile {
    async fn begin(task: &PartTask) -> Result<Self> {
        let node = &task.node;
        let metadata = node.metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        let properties = node.encode.properties().set_key_value_metadata(Some(metadata)).build();
        let options = ArrowWriterOptions::new().with_properties(properties);
        let blocks = Blocks::new(task.buffers.clone());
        let (writer, _) = ArrowWriter::try_new_with_options(blocks, task.schema.clone(), options)
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(parquet_error)?;
        let upload = PartUpload::begin(&task.outlets, &node.bucket, &node.parts[task.part].key, &node.token).await?;
        Ok(Self { writer, upload, rows: 0, row_groups: 0 })
    }

    async fn append(&mut self, row_group: RowGroup) -> Result<()> {
        self.rows += row_group.rows as u64;
        self.row_groups += 1;
        row_group.append_to(&mut self.writer).map_err(parquet_error)?;
        self.send().await
    }

    async fn finish(mut self, part: usize) -> Result<(UploadGuard, PartOutcome)> {
        self.writer.finish().map_err(parquet_error)?;
        self.writer.inner_mut().end_block();
        self.send().await?;
        let (rows, row_groups, size_bytes) = (self.rows, self.row_groups, self.upload.size_bytes);
        let (guard, upload, parts) = self.upload.finish().await?;
        Ok((guard, PartOutcome { part, upload, parts, rows, size_bytes, row_groups }))
    }

    /// Sends the blocks that are full.
    async fn send(&mut self) -> Result<()> {
        for block in std::mem::take(&mut self.writer.inner_mut().full) {
            self.upload.put(block).await?;
        }
        Ok(())
    }
}
