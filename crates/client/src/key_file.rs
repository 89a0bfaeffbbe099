//! A client's secrets, and how they are kept on disk.

use crate::error::{Error, Result};
use cipherform_ckks::{Context, KeyGenerator, SecretKey};
use cipherform_proto::SessionToken;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const MAGIC: &[u8; 4] = b"CFSK";
const VERSION: u16 = 1;
/// Magic, version, parameter fingerprint, session token, secret key.
const FILE_BYTES: usize = 4 + 2 + 32 + 32 + 32;

/// A client's secrets: the secret key, which decrypts, and the session token, which owns what the server holds for it.
pub struct KeyBundle {
    pub(crate) secret: SecretKey,
    pub(crate) token: SessionToken,
}

impl std::fmt::Debug for KeyBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyBundle(..)")
    }
}

impl KeyBundle {
    /// Fresh secrets from the operating system's entropy.
    ///
    /// # Errors
    /// [`Error::Entropy`], or the scheme's.
    pub fn generate(context: &Context) -> Result<Self> {
        let secret = KeyGenerator::new(context).secret_key(&mut entropy()?)?;
        Ok(Self { secret, token: SessionToken::random()? })
    }

    /// Writes the secrets to a new file that only its owner can read. Complete or absent, never half-written.
    ///
    /// # Errors
    /// [`Error::KeyFileRefused`] when the file exists, [`Error::KeyFile`] when it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let fail = |source| Error::KeyFile { path: path.to_owned(), source };
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.secret.params().fingerprint());
        bytes.extend_from_slice(self.token.expose());
        bytes.extend_from_slice(self.secret.expose_bytes_for_storage().as_slice());

        let temporary = temporary_name(path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary).map_err(fail)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        // A hard link fails if the name is taken, so that no earlier key is overwritten by a race.
        let placed = written.and_then(|()| fs::hard_link(&temporary, path));
        let _ = fs::remove_file(&temporary);
        match placed {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let detail = "it exists; remove it first if its keys are of no more use".into();
                Err(Error::KeyFileRefused { path: path.to_owned(), detail })
            }
            other => other.map_err(fail),
        }
    }

    /// Reads the secrets from a file that only its owner can read.
    ///
    /// # Errors
    /// [`Error::KeyFileRefused`] when others can read the file or it is no key file of this version;
    /// [`Error::WrongBundle`] when the key is for another parameter set than the context's; [`Error::KeyFile`].
    pub fn load(path: &Path, context: &Context) -> Result<Self> {
        let fail = |source| Error::KeyFile { path: path.to_owned(), source };
        let refuse =
            |detail: &str| Error::KeyFileRefused { path: path.to_owned(), detail: detail.into() };
        let mut file = fs::File::open(path).map_err(fail)?;
        #[cfg(unix)]
        {
            // Of the open file, not of the name: nothing can be exchanged in between.
            let metadata = file.metadata().map_err(fail)?;
            if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
                return Err(refuse("others can read it; run chmod 600 on it, or make new keys"));
            }
        }
        let mut bytes = Zeroizing::new([0; FILE_BYTES]);
        file.read_exact(bytes.as_mut_slice()).map_err(|_| refuse("it is too short"))?;
        if file.read(&mut [0]).map_err(fail)? != 0 {
            return Err(refuse("it is too long"));
        }
        let (head, rest) = bytes.split_at(6);
        if head != [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat() {
            return Err(refuse("it is not a key file of this version"));
        }
        let [fingerprint, token, secret] = rest.as_chunks::<32>().0 else {
            return Err(refuse("it is too short"));
        };
        if *fingerprint != context.params().fingerprint() {
            return Err(Error::WrongBundle { needed: context.params().name().to_owned() });
        }
        let secret = SecretKey::from_stored_bytes(context, secret)?;
        Ok(Self { secret, token: SessionToken::from_bytes(*token) })
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

/// A generator for secrets, seeded from the operating system's entropy. The seed is wiped; the state of the generator is
/// not, as its crate cannot, so keep one no longer than it is needed.
///
/// # Errors
/// [`Error::Entropy`] when the system has none to give.
pub fn entropy() -> Result<ChaCha20Rng> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|_| Error::Entropy)?;
    Ok(ChaCha20Rng::from_seed(*seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_ckks::presets;
    use cipherform_ring::Device;

    /// Toy parameters: not secure.
    fn context(name: &str) -> Context {
        Context::new(presets::get(name).unwrap(), &Device::cpu()).unwrap()
    }

    #[test]
    fn a_saved_bundle_is_the_same_bundle() {
        let context = context("toy11_lev");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let bundle = KeyBundle::generate(&context).unwrap();
        bundle.save(&path).unwrap();
        let loaded = KeyBundle::load(&path, &context).unwrap();
        assert_eq!(loaded.token.expose(), bundle.token.expose());
        assert_eq!(
            *loaded.secret.expose_bytes_for_storage(),
            *bundle.secret.expose_bytes_for_storage()
        );
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "a temporary file was left");
        assert_eq!(format!("{bundle:?}"), "KeyBundle(..)");
        // An existing file is never overwritten.
        let refused = KeyBundle::generate(&context).unwrap().save(&path);
        assert!(matches!(refused, Err(Error::KeyFileRefused { .. })));
        KeyBundle::load(&path, &context).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let context = context("toy11_lev");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        KeyBundle::generate(&context).unwrap().save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o660, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = KeyBundle::load(&path, &context);
            assert!(matches!(refused, Err(Error::KeyFileRefused { .. })), "{mode:o}");
        }
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let context = context("toy11_lev");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        KeyBundle::generate(&context).unwrap().save(&path).unwrap();
        let good = fs::read(&path).unwrap();
        let rewrite = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            KeyBundle::load(&path, &context)
        };
        for length in [0, 5, good.len() - 1] {
            let refused = rewrite(&good[..length]);
            assert!(matches!(refused, Err(Error::KeyFileRefused { .. })), "{length}");
        }
        let long = rewrite(&[good.as_slice(), &[0]].concat());
        assert!(matches!(long, Err(Error::KeyFileRefused { .. })));
        for at in 0..6 {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(matches!(rewrite(&bytes), Err(Error::KeyFileRefused { .. })), "{at}");
        }
        let mut bytes = good.clone();
        bytes[6] ^= 1;
        assert!(matches!(rewrite(&bytes), Err(Error::WrongBundle { .. })));
        rewrite(&good).unwrap();
        let absent = KeyBundle::load(&directory.path().join("absent"), &context);
        assert!(matches!(absent, Err(Error::KeyFile { .. })));
    }
}
