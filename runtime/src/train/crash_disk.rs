//! A disk that forgets.
//!
//! Does every operation on a real folder and remembers beside it what of it would be left after a crash: of a file the
//! bytes up to its last sync and any part of those after it, of a folder its names at the last sync or at any operation
//! since. Folders are independent of each other, as POSIX allows: that a file is removed may survive while the new name
//! of its folder, given before, does not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::train::file_system::{Disk, FileSystem, Output};

/// How operations go wrong from some number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine stops: this operation and all after it fail, a write after half its bytes.
    Crash,
    /// There is no room: what needs some fails, what removes does not.
    Full,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    /// Nothing.
    Nothing,
    /// Every name, and of the files nothing.
    Names,
    /// All.
    Everything,
    /// Something.
    Some(u64),
}

/// Syncs that do nothing, to see that they are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) file_syncs: bool,
    pub(crate) directory_syncs: bool,
}

enum Node {
    File {
        bytes: Vec<u8>,
        synced: usize,
    },
    /// Names at the last sync and after every operation since.
    Directory(Vec<BTreeMap<String, usize>>),
}

struct Model {
    nodes: Vec<Node>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    ignored: Ignored,
}

/// The disk; its root is a folder that is there for good.
#[derive(Clone)]
pub(crate) struct CrashDisk {
    root: PathBuf,
    model: Rc<RefCell<Model>>,
}

struct CrashFile {
    real: File,
    node: usize,
    model: Rc<RefCell<Model>>,
}

impl Model {
    /// Counts an operation; says whether it works.
    fn operation(&mut self, needs_room: bool) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((first, Fault::Crash)) if number >= first => Err(io::Error::other("crashed")),
            Some((first, Fault::Full)) if number >= first && needs_room => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn names(&self, node: usize) -> &BTreeMap<String, usize> {
        match &self.nodes[node] {
            Node::Directory(history) => history.last().unwrap(),
            Node::File { .. } => panic!("a file is no folder"),
        }
    }

    fn change(&mut self, node: usize, change: impl FnOnce(&mut BTreeMap<String, usize>)) {
        let mut names = self.names(node).clone();
        change(&mut names);
        let Node::Directory(history) = &mut self.nodes[node] else { unreachable!() };
        history.push(names);
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn survivor(
        &self,
        node: usize,
        path: &Path,
        choose: &mut dyn FnMut(usize) -> usize,
        survival: Survival,
    ) {
        match &self.nodes[node] {
            Node::File { bytes, synced } => {
                let kept = match survival {
                    Survival::Nothing | Survival::Names => *synced,
                    Survival::Everything => bytes.len(),
                    Survival::Some(_) => synced + choose(bytes.len() - synced),
                };
                fs::write(path, &bytes[..kept]).unwrap();
            }
            Node::Directory(history) => {
                let kept = match survival {
                    Survival::Nothing => 0,
                    Survival::Names | Survival::Everything => history.len() - 1,
                    Survival::Some(_) => choose(history.len() - 1),
                };
                fs::create_dir_all(path).unwrap();
                for (name, node) in &history[kept] {
                    self.survivor(*node, &path.join(name), choose, survival);
                }
            }
        }
    }
}

impl CrashDisk {
    /// An empty disk in an empty folder.
    pub(crate) fn new(root: &Path, fault: Option<(usize, Fault)>, ignored: Ignored) -> CrashDisk {
        fs::create_dir_all(root).unwrap();
        let nodes = vec![Node::Directory(vec![BTreeMap::new()])];
        let model = Model { nodes, operations: 0, fault, ignored };
        CrashDisk { root: root.to_owned(), model: Rc::new(RefCell::new(model)) }
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> usize {
        self.model.borrow().operations
    }

    /// Puts what a crash leaves now into a folder.
    pub(crate) fn leave(&self, survival: Survival, target: &Path) {
        let mut state = match survival {
            Survival::Some(seed) => seed,
            _ => 0,
        };
        let mut choose = |most: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % (most + 1)
        };
        self.model.borrow().survivor(0, target, &mut choose, survival);
    }

    /// The folder that a path lies in, and its last name.
    fn place(&self, path: &Path) -> (usize, String) {
        let path = path.strip_prefix(&self.root).unwrap();
        let model = self.model.borrow();
        let parents = path.parent().unwrap().components();
        let name = |name: &std::ffi::OsStr| name.to_str().unwrap().to_owned();
        let parent = parents.fold(0, |node, part| model.names(node)[&name(part.as_os_str())]);
        (parent, name(path.file_name().unwrap()))
    }

    fn operation(&self, needs_room: bool) -> io::Result<()> {
        self.model.borrow_mut().operation(needs_room)
    }
}

impl FileSystem for CrashDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.operation(true)?;
        Disk.create_directory(path)?;
        let (parent, name) = self.place(path);
        let mut model = self.model.borrow_mut();
        let node = model.add(Node::Directory(vec![BTreeMap::new()]));
        model.change(parent, |names| _ = names.insert(name, node));
        Ok(())
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        self.operation(true)?;
        let real = File::create_new(path)?;
        let (parent, name) = self.place(path);
        let mut model = self.model.borrow_mut();
        let node = model.add(Node::File { bytes: Vec::new(), synced: 0 });
        model.change(parent, |names| _ = names.insert(name, node));
        Ok(Box::new(CrashFile { real, node, model: Rc::clone(&self.model) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(true)?;
        Disk.rename(from, to)?;
        let ((parent, old), (same, new)) = (self.place(from), self.place(to));
        assert_eq!(parent, same, "a name in another folder is not one step");
        self.model.borrow_mut().change(parent, |names| {
            let node = names.remove(&old).unwrap();
            names.insert(new, node);
        });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.operation(false)?;
        Disk.remove_file(path)?;
        let (parent, name) = self.place(path);
        self.model.borrow_mut().change(parent, |names| assert!(names.remove(&name).is_some()));
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.operation(false)?;
        Disk.remove_directory(path)?;
        let (parent, name) = self.place(path);
        self.model.borrow_mut().change(parent, |names| assert!(names.remove(&name).is_some()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.operation(false)?;
        let node = match path == self.root {
            true => 0,
            false => {
                let (parent, name) = self.place(path);
                self.model.borrow().names(parent)[&name]
            }
        };
        let mut model = self.model.borrow_mut();
        if !model.ignored.directory_syncs {
            let Node::Directory(history) = &mut model.nodes[node] else { panic!("a file") };
            history.drain(..history.len() - 1);
        }
        Ok(())
    }
}

impl Write for CrashFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut model = self.model.borrow_mut();
        let done = model.operation(true);
        let written = if done.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.real.write_all(written)?;
        let Node::File { bytes, .. } = &mut model.nodes[self.node] else { unreachable!() };
        bytes.extend(written);
        done.map(|()| written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for CrashFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut model = self.model.borrow_mut();
        model.operation(true)?;
        if !model.ignored.file_syncs {
            let Node::File { bytes, synced } = &mut model.nodes[self.node] else { unreachable!() };
            *synced = bytes.len();
        }
        Ok(())
    }
}
