//! The file of the database: made for its owner alone, and warned of if it is open to others.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes the file for this user alone, if there is none; gives its mode. What the engine puts beside it gets the same one.
pub(super) fn make(path: &Path) -> io::Result<u32> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(file.metadata()?.permissions().mode() & 0o777)
}

/// What to say of a file that others than its owner may read, as a copy that was put back may be.
pub(super) fn exposed(path: &Path, mode: u32) -> Option<String> {
    let path = path.display();
    let warning = || format!("{path} holds secrets and others may read it (mode {mode:04o}); run chmod 600 {path}");
    (mode & 0o044 != 0).then(warning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_read_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry");
        let warning = || exposed(&path, make(&path).unwrap());
        assert_eq!(warning(), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let shown = path.display();
        let text = format!("{shown} holds secrets and others may read it (mode 0644); run chmod 600 {shown}");
        assert_eq!(warning(), Some(text));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(warning(), None);
    }
}
