//! Correlations in files: one a run and party, spent by renaming before the first byte is used.
//!
//! A file that was taken is renamed to `.spent`, read and removed; whatever happens in between, a restart finds no file to use twice. A *copy* of a store, e.g. in a backup, is
//! not caught here; both parties refuse two runs with different nonces, not two runs with the same one.

use crate::circuit::Circuit;
use crate::dealer::{Correlations, WeightMask};
use crate::error::{Error, Result};
use crate::party::ServerModel;
use crate::prg::Seed;
use crate::role::Role;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const MASK_FILE: &str = "weights.mask";

/// Hash of the weights that the mask has hidden.
const MASKED_FILE: &str = "weights.masked";

fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let what = format!("{what} {}", path.display());
    move |source| Error::Io { what, source }
}

/// Creates a file that only its owner can read; refuses to overwrite.
fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(io("create", path))
}

/// A directory of correlations of one party.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    used: usize,
}

impl Store {
    /// The store in `directory`, which is created if it does not exist; files that a run took and did not
    /// remove are removed. A process that takes one at that moment gets an error.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(io("create", directory))?;
        let store = Self { directory: directory.into(), used: 0 };
        // What a run that died had taken.
        for path in store.files("spent")? {
            std::fs::remove_file(&path).map_err(io("remove", &path))?;
        }
        Ok(store)
    }

    fn files(&self, extension: &str) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(&self.directory).map_err(io("list", &self.directory))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|e| e == extension))
            .collect();
        files.sort();
        Ok(files)
    }

    /// Runs left.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remaining(&self) -> Result<usize> {
        Ok(self.files("corr")?.len())
    }

    /// Adds correlations, named by their nonce.
    ///
    /// # Errors
    /// [`Error::Io`], also when they are there already.
    pub fn put(&self, c: &Correlations) -> Result<()> {
        let name: String =
            c.nonce.iter().take(8).fold(String::new(), |s, b| s + &format!("{b:02x}"));
        let path = self.directory.join(format!("{name}.corr"));
        let mut file = create(&path)?;
        file.write_all(&c.encode()).map_err(io("write", &path))?;
        file.sync_all().map_err(io("write", &path))
    }

    /// Takes the next correlations for `circuit`: marks them spent, then reads them.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when none are left; [`Error::Malformed`] for a damaged file, which is spent all the same; [`Error::Io`].
    pub fn take(&mut self, circuit: &Circuit, role: Role) -> Result<Correlations> {
        for path in self.files("corr")? {
            let spent = path.with_extension("spent");
            // A rename that fails means that another process was faster.
            if self.spend(&path, &spent)? {
                let read = load(&spent, circuit, role);
                std::fs::remove_file(&spent).map_err(io("remove", &spent))?;
                self.used += 1;
                return read;
            }
        }
        Err(Error::Exhausted { used: self.used })
    }

    /// Takes the correlations whose nonce begins with `name`, as a peer announced it.
    ///
    /// # Errors
    /// [`Error::Spent`] when they are gone; as [`Store::take`].
    pub fn take_named(
        &mut self,
        name: &str,
        circuit: &Circuit,
        role: Role,
    ) -> Result<Correlations> {
        let path = self.directory.join(format!("{name}.corr"));
        let spent = path.with_extension("spent");
        if name.contains(['/', '\\', '.']) || !self.spend(&path, &spent)? {
            return Err(Error::Spent { path: path.display().to_string() });
        }
        let read = load(&spent, circuit, role);
        std::fs::remove_file(&spent).map_err(io("remove", &spent))?;
        self.used += 1;
        read
    }

    /// Keeps the mask of the server's weights beside its correlations.
    ///
    /// # Errors
    /// [`Error::Io`], also when there is one already.
    pub fn put_mask(&self, mask: &WeightMask) -> Result<()> {
        let path = self.directory.join(MASK_FILE);
        create(&path)?.write_all(&mask.0.0).map_err(io("write", &path))
    }

    /// The mask of the server's weights.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn mask(&self) -> Result<WeightMask> {
        let path = self.directory.join(MASK_FILE);
        let bytes = Zeroizing::new(std::fs::read(&path).map_err(io("read", &path))?);
        let seed = <[u8; 32]>::try_from(&bytes[..]).map_err(|_| Error::Malformed {
            what: "weight mask",
            detail: format!("{} bytes, expected 32", bytes.len()),
        })?;
        Ok(WeightMask(Seed(seed)))
    }

    /// Ties the mask to the weights of `model`, the first that it hides: other weights under the same mask would tell the
    /// client their difference. To be called before anything is sent.
    ///
    /// # Errors
    /// [`Error::MaskUsed`] when the mask has hidden other weights; [`Error::Io`].
    pub fn bind_mask(&self, model: &ServerModel) -> Result<()> {
        let path = self.directory.join(MASKED_FILE);
        if !path.exists() {
            let mut file = create(&path)?;
            file.write_all(&model.digest()).map_err(io("write", &path))?;
            return file.sync_all().map_err(io("write", &path));
        }
        if std::fs::read(&path).map_err(io("read", &path))? == model.digest() {
            return Ok(());
        }
        Err(Error::MaskUsed { directory: self.directory.display().to_string() })
    }

    /// Marks a file as spent, on disk: after a power cut it must not come back. Whether it was there.
    fn spend(&self, path: &Path, spent: &Path) -> Result<bool> {
        if std::fs::rename(path, spent).is_err() {
            return Ok(false);
        }
        let directory = File::open(&self.directory).map_err(io("open", &self.directory))?;
        directory.sync_all().map_err(io("write", &self.directory))?;
        Ok(true)
    }
}

fn load(path: &Path, circuit: &Circuit, role: Role) -> Result<Correlations> {
    let mut file = File::open(path).map_err(io("read", path))?;
    let found = file.metadata().map_err(io("read", path))?.len();
    let expected = Correlations::encoded_bytes(circuit, role);
    if found != expected as u64 {
        let detail = format!("{found} bytes, expected {expected} for this plan and role");
        return Err(Error::Malformed { what: "correlations", detail });
    }
    let mut all = Zeroizing::new(vec![0; expected]);
    file.read_exact(&mut all).map_err(io("read", path))?;
    Correlations::decode(&all, circuit, role)
}
