//! What a start would make in the file system, looked at without making it.

use std::io::{Error, ErrorKind};
use std::path::Path;

use nix::unistd::{AccessFlags, eaccess};

/// Whether the directory `path` is missing; the error that making it would end with, if it could not be made.
pub(super) fn directory_is_missing(path: &Path) -> Result<bool, Error> {
    for ancestor in path.ancestors() {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match std::fs::metadata(ancestor) {
            // A link to nowhere: the directory cannot be made in its place.
            Err(error) if error.kind() == ErrorKind::NotFound && std::fs::symlink_metadata(ancestor).is_ok() => {
                return Err(Error::from(nix::errno::Errno::EEXIST));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(found) if !found.is_dir() => return Err(Error::from(nix::errno::Errno::EEXIST)),
            Ok(_) if ancestor == path => return Ok(false),
            Ok(_) => return can_write_in(ancestor).map(|()| true),
        }
    }
    Ok(true)
}

/// The error that making a file in `directory` would end with, if this user may not.
pub(super) fn can_write_in(directory: &Path) -> Result<(), Error> {
    Ok(eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions, create_dir, read_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn it_says_what_making_the_directory_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        write(path("file"), "").unwrap();
        create_dir(path("there")).unwrap();
        create_dir(path("locked")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        symlink("there", path("link")).unwrap();
        set_permissions(path("locked"), Permissions::from_mode(0o500)).unwrap();
        let count = read_dir(directory.path()).unwrap().count();
        for (name, expected) in [
            ("there", Ok(false)),
            ("new", Ok(true)),
            ("a/b/c", Ok(true)),
            ("there/new", Ok(true)),
            ("file", Err(ErrorKind::AlreadyExists)),
            ("file/new", Err(ErrorKind::NotADirectory)),
            ("link", Ok(false)),
            ("link/new", Ok(true)),
            ("dangling", Err(ErrorKind::AlreadyExists)),
            ("dangling/new", Err(ErrorKind::AlreadyExists)),
        ] {
            assert_eq!(directory_is_missing(&path(name)).map_err(|error| error.kind()), expected, "{name}");
        }
        assert_eq!(read_dir(directory.path()).unwrap().count(), count, "nothing was made");
        // Who may write in a locked directory is for the system to say: root may.
        for name in ["there/new", "new/a", "file", "file/new", "locked/new", "dangling", "dangling/new", "link"] {
            let probed = directory_is_missing(&path(name)).map(|_| ()).map_err(|error| error.kind());
            let made = DirBuilder::new().recursive(true).create(path(name)).map_err(|error| error.kind());
            assert_eq!(probed, made, "{name}");
        }
    }

    #[test]
    fn a_relative_path_is_looked_up_from_the_working_directory() {
        assert!(!directory_is_missing(Path::new("src/config")).unwrap());
        assert!(directory_is_missing(Path::new("Cargo.toml")).is_err());
    }
}
