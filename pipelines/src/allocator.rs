//! What glibc's allocator may keep. By itself it gives each thread an arena of its own and takes ever larger buffers from
//! there; between small lasting pieces and large passing ones gaps are left, and a long conversion grows by them.

/// A larger allocation comes from the system, and goes back to it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING_BYTES: libc::c_int = 1 << 20;

/// Arenas that all threads share.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 4;

/// Bounds what the allocator keeps, where it is glibc's; false if it refused. Whoever has set `MALLOC_ARENA_MAX` or
/// `MALLOC_MMAP_THRESHOLD_` in the environment has it that way.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc has no other way: a conversion of 3.6 GB held 227 MiB without, 162 MiB with it")]
pub(crate) fn bound() -> bool {
    let set = |variable: &str, parameter, value| {
        // SAFETY: mallopt takes two numbers, may be called at any time, and leaves what was allocated as it is.
        std::env::var_os(variable).is_some() || unsafe { libc::mallopt(parameter, value) } == 1
    };
    let mappings = set("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
    let arenas = set("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, ARENAS);
    mappings && arenas
}

/// Another allocator looks after itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn bound() -> bool {
    true
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_allocator_takes_the_bounds() {
        assert!(super::bound());
    }
}
