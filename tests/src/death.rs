//! Deaths at a named point between two effects, of a real process by a real `kill -9`.
//!
//! The program of the suite looks for [`VARIABLE`]; the one that is shipped knows nothing of it. The points have the names
//! that the simulations give them ([`point_of`]).

use std::{
    fmt,
    process::Command,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        Result,
        tap::{Answer, Call, TappedCloud, Witness},
    },
    graph::{Built, OperatorType, Registry},
    operator::{Context, OperatorError},
};
use serde_json::Value;

use crate::{
    rebuilt::{self, Rebuild},
    simulation::witness::{Crash, point_of},
};

/// Names the point at which the process dies, e.g. `after 2 fold: claim`: after the second claim was carried out, and before
/// the fold knows of it.
pub const VARIABLE: &str = "DIE_AT";

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", if self.after { "after" } else { "before" }, self.nth, self.point)
    }
}

impl FromStr for Crash {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wrong =
            || anyhow!("`{text}` is no point to die at: it is `before` or `after`, a number and a point's name");
        let mut parts = text.splitn(3, ' ');
        let after = match parts.next() {
            Some("after") => true,
            Some("before") => false,
            _ => return Err(wrong()),
        };
        let nth = parts.next().and_then(|nth| nth.parse().ok()).filter(|nth| *nth > 0).with_context(wrong)?;
        let point = parts.next().with_context(wrong)?.to_owned();
        Ok(Self { point, after, nth })
    }
}

/// The registry of the pipeline, whose operators die with their whole process where [`VARIABLE`] says.
pub fn registry() -> anyhow::Result<Registry> {
    let Ok(point) = std::env::var(VARIABLE) else { return Ok(penstock_operators::registry()) };
    let mortal = Arc::new(Mortal { at: point.parse()?, passed: AtomicU64::new(0) });
    Ok(rebuilt::registry(&(Arc::new(Doomed(mortal)) as Arc<dyn Rebuild>)))
}

struct Doomed(Arc<Mortal>);

#[async_trait]
impl Rebuild for Doomed {
    async fn rebuild(
        &self,
        real: &dyn OperatorType,
        options: &Value,
        mut context: Context,
    ) -> std::result::Result<Built, OperatorError> {
        let witness = Arc::clone(&self.0) as Arc<dyn Witness>;
        context.cloud = Arc::new(TappedCloud::new(context.cloud, real.name(), witness));
        real.build(options, context).await
    }
}

struct Mortal {
    at: Crash,
    /// How often the point was come to.
    passed: AtomicU64,
}

impl Mortal {
    /// The request that it is about is never answered, so that nothing follows from it until the signal arrives.
    fn die(&self) -> ! {
        eprintln!("Dies {}.", self.at);
        let killed = Command::new("sh").args(["-c", "kill -KILL \"$PPID\""]).status();
        panic!("it couldn't be killed: {killed:?}");
    }
}

#[async_trait]
impl Witness for Mortal {
    async fn before(&self, call: &Call<'_>) -> Result<()> {
        if call.request.is_effect() && point_of(call) == self.at.point {
            let nth = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
            if !self.at.after && nth == self.at.nth {
                self.die();
            }
        }
        Ok(())
    }

    async fn after(&self, call: &Call<'_>, _: &Answer) {
        // Of several that are under way at once, whichever is answered once so many have begun.
        if self.at.after
            && call.request.is_effect()
            && point_of(call) == self.at.point
            && self.passed.load(Ordering::Relaxed) >= self.at.nth
        {
            self.die();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_written_as_it_is_read() {
        for text in ["after 2 fold: claim", "before 1 convert: put a part"] {
            assert_eq!(text.parse::<Crash>().unwrap().to_string(), text);
        }
        for text in ["", "after", "after 0 fold: claim", "later 1 fold: claim", "before x fold: claim", "after 1"] {
            let error = text.parse::<Crash>().unwrap_err().to_string();
            assert!(error.contains("`before` or `after`"), "{error}");
        }
    }
}
