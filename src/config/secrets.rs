//! Secrets in files: root keys, the gateway's key pair, API keys. What is read here is wiped after use, and no error
//! quotes it.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::values::Fault;
use super::{Missing, probe};
use crate::api::tokens::TokenRules;
use crate::auth::keys::KeyPair;
use crate::quote::reason;

/// Name of the gateway's own key in the data directory.
const CLOUD_KEY: &str = "cloud-key";

/// No form of a key is nearly as long; more of a file is not read.
const LONGEST_KEY_FILE: usize = 1024;

/// An API key with fewer characters could be guessed.
const SHORTEST_API_KEY: usize = 16;

/// 32 secret bytes.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// A key that a client of the API shows. Prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// The key itself: `ik` and at least 14 more visible ASCII characters.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads a file of one key in any of its forms.
pub(super) fn key_file(path: &Path, warnings: &mut Vec<String>) -> Result<Secret, Fault> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_KEY_FILE + 1));
    File::open(path)
        .and_then(|file| file.take(LONGEST_KEY_FILE as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, &error))?;
    warn_if_exposed(path, warnings);
    // Chance gives 32 printable bytes once in 10^13 keys, and a key of half the length in hex is a likelier mistake.
    let printable = bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(raw) if !printable => Ok(Zeroizing::new(raw)),
        _ => key_text(bytes.trim_ascii())
            .map_err(|found| Fault::new(format!("{} is not a key file: it has {found}", path.display()), KEY_FORMS)),
    }
}

/// A key given in the configuration file itself.
pub(super) fn inline_key(text: &str) -> Result<Secret, Fault> {
    let found = match key_text(text.trim().as_bytes()) {
        Ok(key) => return Ok(key),
        Err(found) => found,
    };
    Err(Fault::new(format!("not a key: it has {found}"), "give 32 bytes as base64 (44 characters) or hex (64 digits)"))
}

const KEY_FORMS: &str = "give 32 bytes as base64 (44 characters), as hex (64 digits), or raw";

/// 32 bytes in base64 or hex; else what was found, without quoting it.
fn key_text(text: &[u8]) -> Result<Secret, String> {
    let mut key = Zeroizing::new([0; 32]);
    match text.len() {
        // The engine wants room for its estimate, one byte more than what it writes.
        44 => {
            let mut room = Zeroizing::new([0; 33]);
            match STANDARD.decode_slice(text, room.as_mut_slice()) {
                Ok(32) => key.copy_from_slice(&room[..32]),
                _ => return Err("44 bytes that are not base64 of 32".to_owned()),
            }
        }
        64 => hex::decode_to_slice(text, key.as_mut_slice())
            .map_err(|_| "64 bytes that are not all hex digits".to_owned())?,
        length if length > LONGEST_KEY_FILE => return Err(format!("more than {LONGEST_KEY_FILE} bytes")),
        length => return Err(format!("{length} bytes")),
    }
    Ok(key)
}

/// Reads a file of API keys, one a line; empty lines and lines that begin with `#` are skipped.
pub(super) fn api_keys(path: &Path, warnings: &mut Vec<String>) -> Result<Vec<ApiKey>, Fault> {
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?);
    warn_if_exposed(path, warnings);
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("{}:{}", path.display(), index + 1);
        if !line.starts_with("ik") || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Fault::new(
                format!("{} is not an API key", place()),
                "write ik and visible ASCII characters without spaces",
            ));
        }
        if line.len() < SHORTEST_API_KEY {
            return Err(Fault::new(
                format!("{} is an API key of {} characters, short enough to guess", place(), line.len()),
                format!("write ik and random characters, {SHORTEST_API_KEY} or more in all"),
            ));
        }
        keys.push(ApiKey(Zeroizing::new(line.to_owned())));
    }
    if keys.is_empty() {
        return Err(no_api_key(path));
    }
    Ok(keys)
}

/// Reads a file of the public keys that tokens are signed for. They are no secrets, so that others may read it.
pub(super) fn tokens(path: &Path, audience: &str) -> Result<TokenRules, Fault> {
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?);
    TokenRules::of(&text, audience).map_err(|error| {
        let remedy = "give public keys as a JWK or a JWK set (RFC 7517) in JSON";
        Fault::new(format!("{}: {error}", path.display()), remedy)
    })
}

/// The fault of a file of API keys without any.
pub(super) fn no_api_key(path: &Path) -> Fault {
    Fault::new(format!("{} has no API key", path.display()), "write one ik... a line")
}

/// Makes the data directory, for this user alone, if it is missing; left missing, says so.
pub(super) fn data_dir(path: &Path, missing: Missing) -> Result<bool, Fault> {
    let made = match missing {
        Missing::Make => DirBuilder::new().recursive(true).mode(0o700).create(path).map(|()| false),
        Missing::Leave => probe::directory_is_missing(path),
    };
    made.map_err(|error| {
        let problem = format!("cannot make the directory {}: {}", path.display(), reason(&error));
        Fault::new(problem, "make it for this user, or name another with --data-dir")
    })
}

/// The file of the gateway's key in the data directory.
pub(super) fn cloud_key_path(data_dir: &Path) -> PathBuf {
    data_dir.join(CLOUD_KEY)
}

/// The gateway's key pair of the data directory, made on the first start. Of processes that start at once, all get the
/// same. Left missing, any key pair and `true`.
pub(super) fn cloud_key(
    data_dir: &Path,
    missing: Missing,
    warnings: &mut Vec<String>,
) -> Result<(KeyPair, bool), Fault> {
    let path = cloud_key_path(data_dir);
    // Not `Path::exists`, which takes a file that cannot be looked at for none.
    let absent = std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    match missing {
        Missing::Make if absent => make_cloud_key(data_dir, &path)?,
        Missing::Leave if absent => {
            match probe::can_write_in(data_dir) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(not_made(&path, &error)),
                _ => {}
            }
            let key = random_key().map_err(|error| not_made(&path, &error))?;
            return Ok((KeyPair::from_private(*key), true));
        }
        Missing::Make | Missing::Leave => {}
    }
    Ok((KeyPair::from_private(*key_file(&path, warnings)?), false))
}

fn not_made(path: &Path, error: &std::io::Error) -> Fault {
    let problem = format!("cannot make the gateway's key {}: {}", path.display(), reason(error));
    Fault::new(problem, "let this user write to the directory, or name a key with --cloud-key-file")
}

fn random_key() -> Result<Secret, std::io::Error> {
    let mut secret = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(secret.as_mut_slice())
        .map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    Ok(secret)
}

/// The gateway's key pair of a data directory, if there is one. Makes none.
pub(super) fn kept_cloud_key(data_dir: &Path, warnings: &mut Vec<String>) -> Result<Option<KeyPair>, Fault> {
    let path = data_dir.join(CLOUD_KEY);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        _ => Ok(Some(KeyPair::from_private(*key_file(&path, warnings)?))),
    }
}

/// Writes a new key to a file of another name and gives it its own only when it is whole and durable: neither a crash nor
/// a second process ever sees a part of it. If another process was first, its key stays.
fn make_cloud_key(data_dir: &Path, path: &Path) -> Result<(), Fault> {
    let write = || {
        let text = Zeroizing::new(STANDARD.encode(random_key()?.as_slice()) + "\n");
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => File::open(data_dir)?.sync_all(),
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.error),
        }
    };
    write().map_err(|error: std::io::Error| not_made(path, &error))
}

/// Warns of a file of secrets that others than its owner may read.
pub(super) fn warn_if_exposed(path: &Path, warnings: &mut Vec<String>) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let (mode, path) = (metadata.permissions().mode() & 0o777, path.display());
    if is_exposed(mode, metadata.uid(), metadata.gid()) {
        warnings.push(format!("{path} holds secrets and others may read it (mode {mode:04o}); run chmod 600 {path}"));
    }
}

/// Whether others may read a file of this mode, owner and group. What a service manager hands over belongs to root, and lets one
/// user read it by an access list, which looks like a group that may read.
const fn is_exposed(mode: u32, owner: u32, group: u32) -> bool {
    let handed_over = mode == 0o440 && owner == 0 && group == 0;
    mode & 0o044 != 0 && !handed_over
}

/// The fault of a file that cannot be read.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    if is_a_key(path) {
        let remedy = "write the key to a file that only this user can read, and name that file";
        return Fault::new("this is a key, not the name of a file", remedy);
    }
    let remedy = match error.kind() {
        ErrorKind::NotFound => "create it or correct the path",
        ErrorKind::PermissionDenied => "let this user read it",
        ErrorKind::InvalidData => "save it as UTF-8 text",
        ErrorKind::IsADirectory => "name a file, not a directory",
        _ => "correct the path",
    };
    Fault::new(format!("cannot read {}: {}", path.display(), reason(error)), remedy)
}

/// Whether a key was given where a file belongs. It may stand behind the directory that names are relative to, and base64
/// has slashes of its own.
fn is_a_key(path: &Path) -> bool {
    let text = path.as_os_str().as_bytes();
    let starts = (0..text.len()).filter(|at| *at == 0 || text[at - 1] == b'/');
    let mut ends = starts.map(|at| &text[at..]);
    let has_key = ends.any(|end| key_text(end.trim_ascii()).is_ok() || end.starts_with(b"ik_"));
    has_key || path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ik"))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;

    const HEX: &str = "a05c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c0f";

    fn read_key(content: &[u8]) -> Result<Secret, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.key");
        write(&path, content).unwrap();
        let shown = format!("{}/", directory.path().display());
        key_file(&path, &mut Vec::new()).map_err(|fault| fault.to_string().replace(&shown, ""))
    }

    fn read_api_keys(content: &str) -> Result<Vec<ApiKey>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.keys");
        write(&path, content).unwrap();
        let shown = format!("{}/", directory.path().display());
        api_keys(&path, &mut Vec::new()).map_err(|fault| fault.to_string().replace(&shown, ""))
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_file_is_base64_hex_or_raw() {
        let mut raw = [0x5c; 32];
        (raw[0], raw[31]) = (0xa0, 0x0f);
        let base64 = STANDARD.encode(raw);
        for content in [HEX.into(), format!("\n {}\r\n", HEX.to_uppercase()), base64.clone(), base64 + "\n"] {
            assert_eq!(*read_key(content.as_bytes()).unwrap(), raw, "{content}");
        }
        assert_eq!(*read_key(&raw).unwrap(), raw);
    }

    #[test]
    fn what_a_bad_key_file_has_is_counted_and_not_quoted() {
        let forms = "; give 32 bytes as base64 (44 characters), as hex (64 digits), or raw";
        let cases: [(&[u8], &str); 7] = [
            (b"", "0 bytes"),
            (b"secretsecret\n", "12 bytes"),
            (b"0123456789abcdef0123456789abcdef", "32 bytes"),
            (&[0xff; 33], "33 bytes"),
            (&[b'!'; 44], "44 bytes that are not base64 of 32"),
            (&[b'x'; 64], "64 bytes that are not all hex digits"),
            (&[b'x'; 5000], "more than 1024 bytes"),
        ];
        for (content, found) in cases {
            assert_eq!(read_key(content), Err(format!("fleet.key is not a key file: it has {found}{forms}")));
        }
        // 44 characters of base64, but of 33 bytes or 31.
        for content in [STANDARD.encode([7; 33]), STANDARD.encode([7; 31])] {
            assert_eq!(content.len(), 44);
            assert!(read_key(content.as_bytes()).is_err(), "{content}");
        }
    }

    #[test]
    fn a_key_in_the_configuration_is_not_quoted_either() {
        assert!(inline_key(HEX).is_ok());
        assert_eq!(
            inline_key("secret").unwrap_err().to_string(),
            "not a key: it has 6 bytes; give 32 bytes as base64 (44 characters) or hex (64 digits)"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why_and_what_to_do() {
        let fault = key_file(Path::new("missing.key"), &mut Vec::new()).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "cannot read missing.key: No such file or directory; create it or correct the path"
        );
        let fault = api_keys(Path::new("/"), &mut Vec::new()).unwrap_err();
        assert_eq!(fault.to_string(), "cannot read /: Is a directory; name a file, not a directory");
        // 13 is EACCES: a test that runs as root may read every file.
        let fault = unreadable(Path::new("fleet.key"), &std::io::Error::from_raw_os_error(13));
        assert_eq!(fault.to_string(), "cannot read fleet.key: Permission denied; let this user read it");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.keys");
        write(&path, [b'i', b'k', 0xff]).unwrap();
        let fault = api_keys(&path, &mut Vec::new()).unwrap_err().to_string();
        assert!(fault.ends_with("api.keys: stream did not contain valid UTF-8; save it as UTF-8 text"), "{fault}");
    }

    #[test]
    fn a_key_in_place_of_the_name_of_its_file_is_not_quoted() {
        let slashes = STANDARD.encode([0xff; 32]);
        for key in [HEX, &slashes, &format!(" {HEX}\n"), "ik_0123456789abcdef", "ik0123456789abcdef", "ik_a/b+c/0123"] {
            for path in [key.to_owned(), format!("/etc/lastroute/{key}"), format!("./{key}")] {
                let expected = "this is a key, not the name of a file; \
                                write the key to a file that only this user can read, and name that file";
                let of_key = key_file(Path::new(&path), &mut Vec::new()).unwrap_err();
                let of_api_keys = api_keys(Path::new(&path), &mut Vec::new()).unwrap_err();
                assert_eq!([of_key.to_string(), of_api_keys.to_string()], [expected; 2], "{path}");
            }
        }
        let fault = api_keys(Path::new("/etc/ike/api.keys"), &mut Vec::new()).unwrap_err().to_string();
        assert!(fault.starts_with("cannot read /etc/ike/api.keys: "), "{fault}");
    }

    #[test]
    fn a_file_of_secrets_that_others_may_read_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.key");
        write(&path, HEX).unwrap();
        for (bits, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, false)] {
            set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            let mut warnings = Vec::new();
            key_file(&path, &mut warnings).unwrap();
            let shown = path.display();
            let text = format!("{shown} holds secrets and others may read it (mode {bits:04o}); run chmod 600 {shown}");
            assert_eq!(warnings, if warned { vec![text] } else { vec![] }, "{bits:o}");
        }
    }

    #[test]
    fn api_keys_are_lines_and_a_bad_one_is_named_by_its_line() {
        let keys = read_api_keys("# clients\n\n ik_0123456789abc \r\nikABCDEFGHIJKLMNOP\n").unwrap();
        assert_eq!(keys.iter().map(ApiKey::text).collect::<Vec<_>>(), ["ik_0123456789abc", "ikABCDEFGHIJKLMNOP"]);
        for (content, error) in [
            (
                "#\nsecret0123456789",
                "api.keys:2 is not an API key; write ik and visible ASCII characters without spaces",
            ),
            (
                "ik_01234567 89abcd",
                "api.keys:1 is not an API key; write ik and visible ASCII characters without spaces",
            ),
            (
                "ik_short",
                "api.keys:1 is an API key of 8 characters, short enough to guess; \
                 write ik and random characters, 16 or more in all",
            ),
            ("# none\n", "api.keys has no API key; write one ik... a line"),
        ] {
            assert_eq!(read_api_keys(content), Err(error.to_owned()));
        }
    }

    #[test]
    fn what_a_service_manager_hands_over_is_not_exposed() {
        assert!(!is_exposed(0o440, 0, 0) && !is_exposed(0o400, 0, 0));
        for (mode, owner, group) in [(0o440, 1000, 0), (0o440, 0, 1000), (0o640, 0, 0), (0o444, 0, 0)] {
            assert!(is_exposed(mode, owner, group), "{mode:o} {owner} {group}");
        }
    }

    #[test]
    fn the_first_start_makes_a_key_that_later_starts_use() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("new/data");
        super::data_dir(&data_dir, Missing::Make).unwrap();
        assert_eq!((mode(&data_dir), mode(data_dir.parent().unwrap())), (0o700, 0o700));
        let mut warnings = Vec::new();
        let first = cloud_key(&data_dir, Missing::Make, &mut warnings).unwrap().0;
        assert_eq!(mode(&data_dir.join(CLOUD_KEY)), 0o600);
        super::data_dir(&data_dir, Missing::Make).unwrap();
        let second = cloud_key(&data_dir, Missing::Make, &mut warnings).unwrap().0;
        assert_eq!((first.private(), warnings), (second.private(), vec![]));
        // Nothing else is left behind.
        assert_eq!(std::fs::read_dir(&data_dir).unwrap().count(), 1);
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(cloud_key(elsewhere.path(), Missing::Make, &mut Vec::new()).unwrap().0.private(), first.private());
    }

    #[test]
    fn starts_at_the_same_time_share_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let together = std::sync::Barrier::new(8);
        let start = || {
            together.wait();
            *cloud_key(directory.path(), Missing::Make, &mut Vec::new()).unwrap().0.private()
        };
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| key == &keys[0]));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_another_process_made_first_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CLOUD_KEY);
        write(&path, HEX).unwrap();
        make_cloud_key(directory.path(), &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), HEX);
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        write(&path, "").unwrap();
        let shown = path.display();
        assert_eq!(
            data_dir(&path, Missing::Make).unwrap_err().to_string(),
            format!(
                "cannot make the directory {shown}: File exists; make it for this user, or name another with --data-dir"
            )
        );
    }
}
