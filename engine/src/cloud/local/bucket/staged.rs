//! Staged outputs: [`Stage`] on files.
//!
//! An upload is a folder `staging/{id}/` with `upload.json` (what was begun), `data` (the parts, one after another) and
//! `parts.ndjson` (a line per part put). Completing moves `data` into place by one rename and copies nothing:
//!
//! | crash after | what completing again finds |
//! |---|---|
//! | nothing yet, or the sidecar | `data`: it does the rest |
//! | the rename | no `data`, and an object that shows the token: visible |
//! | the removal of the upload | no upload, and an object that shows the token: visible |
//!
//! Parts are synced before they are answered, since their upload is recorded elsewhere and completed after a power cut.

use std::{
    fs,
    io::{ErrorKind, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::Result as StoreResult;
use serde::{Deserialize, Serialize};

use super::{
    FolderBucket,
    etag::{PLACING, hash_bytes, hash_sections},
    failure::{AtPath, failed, refused},
    folder::sync_folder,
    place::{Before, new_id},
    sidecar::{from_json, write_json},
};
use crate::cloud::{
    CloudError, Result,
    limits::{PART_MIN_BYTES, PARTS_PER_UPLOAD},
    stage::{Completion, CopySource, Metadata, ObjectHead, Part, Stage, TOKEN, Upload},
};

/// What `upload.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    key: String,
    metadata: Metadata,
}

#[async_trait]
impl Stage for FolderBucket {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        let (owned, metadata) = (key.to_owned(), metadata.clone());
        self.blocking(move |bucket| bucket.begin_upload(&owned, metadata))
            .await
            .map_err(|error| self.named("begin", key, error))
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        let owned = upload.clone();
        self.blocking(move |bucket| bucket.put_upload_part(&owned, number, &bytes))
            .await
            .map_err(|error| self.named("put_part", &upload.key, error))
    }

    async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Completion> {
        let (owned, parts) = (upload.clone(), parts.to_vec());
        self.blocking(move |bucket| bucket.complete_upload(&owned, &parts))
            .await
            .map_err(|error| self.named("complete", &upload.key, error))
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        let owned = upload.clone();
        self.blocking(move |bucket| bucket.abort_upload(&owned))
            .await
            .map_err(|error| self.named("abort", &upload.key, error))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectHead>> {
        let owned = key.to_owned();
        self.blocking(move |bucket| bucket.find(&owned)).await.map_err(|error| self.named("head", key, error))
    }

    async fn copy_from(&self, source: &CopySource, key: &str, metadata: &Metadata) -> Result<()> {
        let (source, owned, metadata) = (source.clone(), key.to_owned(), metadata.clone());
        self.blocking(move |bucket| {
            if source.version.is_some() {
                return Err(refused("a folder keeps no versions: copy without one".to_owned()));
            }
            let folder = bucket.folder().sibling(&source.bucket)?;
            bucket.copy_object(&folder, &source.key, Some(&source.etag), &owned, &metadata, &Before::Any)
        })
        .await
        .map_err(|error| self.named("copy_from", key, error))
    }
}

impl FolderBucket {
    fn begin_upload(&self, key: &str, metadata: Metadata) -> StoreResult<Upload> {
        // What has no place is refused now: once an output is recorded, completing it must work.
        self.folder().check_place(key)?;
        let token = metadata.get(TOKEN).filter(|token| !token.is_empty()).cloned().ok_or_else(|| {
            refused(format!("an upload needs `{TOKEN}` in its metadata: without it nobody can tell whose object it is"))
        })?;
        let upload = Upload { key: key.to_owned(), id: new_id(), token };
        let folder = self.upload_folder(&upload)?;
        fs::create_dir(&folder).at("creation", &folder)?;
        let data = folder.join("data");
        fs::File::create_new(&data).at("creation", &data)?;
        write_json(self.folder(), &folder.join("upload.json"), &Begun { key: key.to_owned(), metadata })?;
        sync_folder(&self.folder().staging())?;
        Ok(upload)
    }

    fn put_upload_part(&self, upload: &Upload, number: u32, bytes: &[u8]) -> StoreResult<Part> {
        let path = self.folder().path(&upload.key)?;
        let folder = self.upload_folder(upload)?;
        let putting = PLACING.lock(&path);
        if self.begun(upload, &folder)?.is_none() {
            return Err(failed("write", &folder, ErrorKind::NotFound.into()));
        }
        let (parts, log_bytes) = logged_parts(&folder)?;
        let last = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        if number == 0 || number > PARTS_PER_UPLOAD {
            return Err(refused(format!("parts are numbered from 1 to {PARTS_PER_UPLOAD}, and this is {number}")));
        }
        if number > last + 1 {
            return Err(refused(format!("part {number} came before part {}: a folder takes them in order", last + 1)));
        }
        let before = &parts[..number as usize - 1];
        let size_bytes = bytes.len() as u64;
        if number < last && parts[number as usize - 1].size_bytes != size_bytes {
            return Err(refused(format!(
                "part {number} was put with {} bytes and others follow it: it can't be replaced by {size_bytes} bytes",
                parts[number as usize - 1].size_bytes,
            )));
        }
        let part = Part { number, etag: hash_bytes([bytes]), size_bytes };
        let offset = before.iter().map(|part| part.size_bytes).sum();
        let data = folder.join("data");
        write_at(&data, offset, bytes, number >= last).at("write", &data)?;
        let log = folder.join("parts.ndjson");
        append_line(&log, log_bytes, &part).at("write", &log)?;
        drop(putting);
        Ok(part)
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> StoreResult<Completion> {
        let path = self.folder().path(&upload.key)?;
        let folder = self.upload_folder(upload)?;
        let placing = PLACING.lock(&path);
        let data = folder.join("data");
        if let Some(begun) = self.begun(upload, &folder)?
            && data.exists()
        {
            match stage_whole(&folder, parts)? {
                Some(etag) => {
                    self.place_locked(&data, &upload.key, &etag, &begun.metadata, &Before::Any)?;
                    remove_upload(&folder)?;
                    return Ok(Completion::Visible { etag });
                }
                None => tracing::error!(upload = %folder.display(), key = upload.key, "Staged bytes are damaged."),
            }
        } else if folder.exists() {
            remove_upload(&folder)?;
        }
        let there = self.find(&upload.key)?;
        drop(placing);
        Ok(match there {
            Some(object) if object.metadata.get(TOKEN) == Some(&upload.token) => {
                Completion::Visible { etag: object.etag }
            }
            _ => Completion::Lost,
        })
    }

    fn abort_upload(&self, upload: &Upload) -> StoreResult<()> {
        let path = self.folder().path(&upload.key)?;
        let folder = self.upload_folder(upload)?;
        let placing = PLACING.lock(&path);
        if folder.exists() {
            remove_upload(&folder)?;
        }
        drop(placing);
        Ok(())
    }

    /// Where an upload is staged. Its id comes from outside, so it must not lead elsewhere.
    fn upload_folder(&self, upload: &Upload) -> StoreResult<PathBuf> {
        if upload.id.is_empty() || !upload.id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused(format!("`{}` is not the id of an upload of this bucket", upload.id)));
        }
        Ok(self.folder().staging().join(&upload.id))
    }

    fn begun(&self, upload: &Upload, folder: &Path) -> StoreResult<Option<Begun>> {
        let path = folder.join("upload.json");
        let begun: Begun = match fs::read(&path) {
            Ok(text) => from_json(&text, &path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, error)),
        };
        if begun.key != upload.key {
            return Err(refused(format!("upload {} was begun for `{}`, not `{}`", upload.id, begun.key, upload.key)));
        }
        Ok(Some(begun))
    }

    /// The error of an operation on an object of this bucket.
    fn named(&self, operation: &str, key: &str, error: object_store::Error) -> CloudError {
        let mut error = CloudError::from(error);
        error.operation = format!("{operation} of s3://{}/{key}", self.folder().bucket);
        error
    }
}

/// Checks that the staged bytes are these parts, cuts off what follows them and syncs. The etag of the whole, or none if
/// the bytes aren't those that were put.
fn stage_whole(folder: &Path, parts: &[Part]) -> StoreResult<Option<String>> {
    let (logged, _) = logged_parts(folder)?;
    if parts.is_empty() {
        return Err(refused("an output has at least one part; it may be empty".to_owned()));
    }
    for (index, part) in parts.iter().enumerate() {
        if part.number as usize != index + 1 {
            return Err(refused(format!("part {} is missing or out of order", index + 1)));
        }
        if logged.get(index) != Some(part) {
            return Err(refused(format!("part {} isn't the one that was put last", part.number)));
        }
        if index + 1 < parts.len() && part.size_bytes < PART_MIN_BYTES as u64 {
            return Err(refused(format!(
                "part {} has {} bytes: all but the last need {PART_MIN_BYTES}",
                part.number, part.size_bytes
            )));
        }
    }
    let sizes: Vec<u64> = parts.iter().map(|part| part.size_bytes).collect();
    let total_bytes = sizes.iter().sum();
    let data = folder.join("data");
    let checked = (|| {
        let file = fs::File::options().read(true).write(true).open(&data)?;
        if file.metadata()?.len() > total_bytes {
            file.set_len(total_bytes)?;
        }
        let (etags, whole) = hash_sections(&file, &sizes)?;
        file.sync_all()?;
        let same = etags.iter().zip(parts).all(|(etag, part)| *etag == part.etag);
        Ok((same && file.metadata()?.len() == total_bytes).then_some(whole))
    })();
    checked.at("sync", &data)
}

/// The parts put so far (the last line of each number counts), and the bytes of the whole lines.
fn logged_parts(folder: &Path) -> StoreResult<(Vec<Part>, u64)> {
    let path = folder.join("parts.ndjson");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(failed("read", &path, error)),
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut log_bytes = 0;
    // A line without its end was never answered.
    for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let part: Part = from_json(line, &path)?;
        match parts.get_mut((part.number as usize).wrapping_sub(1)) {
            Some(earlier) => *earlier = part,
            None => parts.push(part),
        }
        log_bytes += line.len() as u64;
    }
    Ok((parts, log_bytes))
}

fn write_at(path: &Path, offset: u64, bytes: &[u8], is_last: bool) -> std::io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    if is_last {
        file.set_len(offset)?;
    }
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn append_line(path: &Path, log_bytes: u64, part: &Part) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(part)?;
    line.push(b'\n');
    let mut file = fs::File::options().create(true).write(true).truncate(false).open(path)?;
    file.set_len(log_bytes)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&line)?;
    file.sync_data()
}

fn remove_upload(folder: &Path) -> StoreResult<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removal", folder, error)),
        _ => Ok(()),
    }
}
