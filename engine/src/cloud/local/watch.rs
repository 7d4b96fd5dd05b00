//! A folder watch: announces the new objects of a bucket.
