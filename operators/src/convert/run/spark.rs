//! The passes of the cast `spark`: one for the records' types, one for their text.

use super::super::columns::{REST, may_be_column, room};
use super::{Attempt, ColumnCatalog, ConvertError, Converted, SparkSchema, checked, grow};

impl Attempt<'_, '_> {
    /// Converts with the types that the records of all files have in common. Those of a file that failed have no part in
    /// them: if one fails in the second pass, the types are looked for again.
    pub(super) async fn run_spark(mut self, catalog: &dyn ColumnCatalog) -> Result<Converted, ConvertError> {
        let mut known = checked(catalog.known().await?)?;
        let mut checked_alone = false;
        loop {
            let pass = self.pass(&self.set.clone(), &[], None, false).await?;
            self.drop_failed(&pass);
            let schema = pass.facts.inferred.into_schema();
            loop {
                let new = missing(&schema, &known, self.job.options.max_columns);
                let columns = [known.clone(), new.clone()].concat();
                let pass = self.pass(&self.set.clone(), &columns, Some(schema.clone()), true).await?;
                let failed = self.drop_failed(&pass);
                if failed > 0 {
                    if checked_alone {
                        return Err(ConvertError::Unstable { files: failed });
                    }
                    self.failed_passes += 1;
                    break;
                }
                if new.is_empty() {
                    return self.finish(pass, columns).await;
                }
                let grown = grow(catalog, &new).await?;
                if grown == columns {
                    return self.finish(pass, columns).await;
                }
                // Another conversion added columns meanwhile.
                known = grown;
                self.count_rerun(&new)?;
            }
            if self.failed_passes >= self.job.options.max_passes {
                self.check_each_alone(&[]).await?;
                checked_alone = true;
            }
        }
    }
}

/// The columns that a dataset lacks for a schema: in Spark's order, `_rest` last, if something has no place.
fn missing(schema: &SparkSchema, known: &[String], max_columns: usize) -> Vec<String> {
    let (mut new, mut needs_rest) = (Vec::new(), false);
    let room = room(known, max_columns);
    for name in schema.names() {
        if known.iter().any(|column| column == name) && name != REST {
            continue;
        }
        if may_be_column(name) && new.len() < room {
            new.push(name.to_owned());
        } else {
            needs_rest = true;
        }
    }
    if needs_rest && !known.iter().any(|column| column == REST) {
        new.push(REST.to_owned());
    }
    new
}
