//! The numbers and handles of a [`Vfs`] against a model of what a kernel may expect of them.
//!
//! The model knows files by what they are, not by name or number. After any operation a number that
//! is known stands for the same file as before, and says of it what the model says.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;

use atelier::error::{ErrorKind, Result};
use atelier::tree::memory::MemoryTree;
use atelier::tree::{NewNode, OpenMode, Owner, RenameMode, SetAttr};
use atelier::vfs::{Handle, Known, ROOT, Vfs};
use futures_util::FutureExt as _;
use proptest::prelude::*;

/// What a kernel may do. Nodes and handles are chosen by index among those it knows.
#[derive(Clone, Debug)]
enum Operation {
    Lookup(usize, Name),
    Create(usize, Name),
    MakeDir(usize, Name),
    Link(usize, usize, Name),
    Unlink(usize, Name),
    RemoveDir(usize, Name),
    Rename(usize, Name, usize, Name, RenameMode),
    Open(usize),
    Write(usize, u8, u8),
    Truncate(usize, u8),
    Release(usize),
    List(usize, usize),
    Forget(usize),
}

type Name = &'static str;

/// What a file is to the model: its position in [`Model::files`].
type Id = usize;

#[derive(Debug)]
enum File {
    Bytes { bytes: Vec<u8>, names: u32 },
    Dir { entries: BTreeMap<Name, Id>, removed: bool },
}

struct Model {
    vfs: Vfs,
    files: Vec<File>,
    /// What the kernel knows: the number of each file and how often it was told.
    known: BTreeMap<Id, (u64, u64)>,
    /// The names by which it knows them.
    names: BTreeMap<(Id, Name), Id>,
    handles: Vec<(Handle, Id)>,
    /// Which file each number ever stood for.
    numbers: HashMap<u64, Id>,
}

impl Model {
    fn new() -> Self {
        Self {
            vfs: Vfs::new(Arc::new(MemoryTree::new())),
            files: vec![File::Dir { entries: BTreeMap::new(), removed: false }],
            known: BTreeMap::from([(0, (ROOT, 1))]),
            names: BTreeMap::new(),
            handles: Vec::new(),
            numbers: HashMap::from([(ROOT, 0)]),
        }
    }

    fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Lookup(dir, name) => {
                let dir = self.known_dir(dir);
                let expected = self.entry(dir, name);
                let found = now(self.vfs.lookup(self.ino(dir), name.as_bytes()));
                self.agree(dir, name, expected, found);
            }
            Operation::Create(dir, name) => {
                let dir = self.known_dir(dir);
                let expected = self.add(dir, name, File::Bytes { bytes: Vec::new(), names: 1 });
                let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
                let created = now(self.vfs.create(self.ino(dir), name.as_bytes(), NEW, mode, true));
                if let (Ok((_, opened)), Ok(id)) = (&created, expected) {
                    self.handles.push((opened.handle, id));
                }
                self.agree(dir, name, expected, created.map(|(known, _)| known));
            }
            Operation::MakeDir(dir, name) => {
                let dir = self.known_dir(dir);
                let empty = File::Dir { entries: BTreeMap::new(), removed: false };
                let expected = self.add(dir, name, empty);
                let made = now(self.vfs.create_dir(self.ino(dir), name.as_bytes(), NEW));
                self.agree(dir, name, expected, made);
            }
            Operation::Link(file, dir, name) => self.link(file, dir, name),
            Operation::Unlink(dir, name) => {
                let dir = self.known_dir(dir);
                let expected = self.entry(dir, name).and_then(|id| match self.files[id] {
                    File::Bytes { .. } => Ok(id),
                    File::Dir { .. } => Err(ErrorKind::IsADirectory),
                });
                let removed = now(self.vfs.remove_file(self.ino(dir), name.as_bytes()));
                self.removed(dir, name, expected, removed);
            }
            Operation::RemoveDir(dir, name) => {
                let dir = self.known_dir(dir);
                let expected = self.entry(dir, name).and_then(|id| match &self.files[id] {
                    File::Bytes { .. } => Err(ErrorKind::NotADirectory),
                    File::Dir { entries, .. } if entries.is_empty() => Ok(id),
                    File::Dir { .. } => Err(ErrorKind::DirectoryNotEmpty),
                });
                let removed = now(self.vfs.remove_dir(self.ino(dir), name.as_bytes()));
                self.removed(dir, name, expected, removed);
            }
            Operation::Rename(from, name, to, new_name, mode) => {
                let (from, to) = (self.known_dir(from), self.known_dir(to));
                self.rename((from, name), (to, new_name), mode);
            }
            Operation::Open(file) => {
                if let Some(id) = self.known_file(file).filter(|id| self.is_reachable(*id)) {
                    let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
                    let opened = now(self.vfs.open(self.ino(id), mode, false)).unwrap();
                    self.handles.push((opened.handle, id));
                }
            }
            Operation::Write(handle, offset, len) => {
                let Some((handle, id)) = choose(&self.handles, handle) else { return };
                let written = vec![len; len.into()];
                now(self.vfs.write(handle, offset.into(), &written, false)).unwrap();
                let File::Bytes { bytes, .. } = &mut self.files[id] else { unreachable!() };
                let (start, end) = (usize::from(offset), usize::from(offset) + written.len());
                if end > bytes.len() && !written.is_empty() {
                    bytes.resize(end, 0);
                }
                if !written.is_empty() {
                    bytes[start..end].copy_from_slice(&written);
                }
            }
            Operation::Truncate(file, size) => {
                if let Some(id) = self.known_file(file).filter(|id| self.is_reachable(*id)) {
                    let changes = SetAttr { size: Some(size.into()), ..SetAttr::default() };
                    now(self.vfs.set_attr(self.ino(id), None, changes, false)).unwrap();
                    let File::Bytes { bytes, .. } = &mut self.files[id] else { unreachable!() };
                    bytes.resize(size.into(), 0);
                }
            }
            Operation::Release(handle) => {
                if !self.handles.is_empty() {
                    let (handle, _) = self.handles.swap_remove(handle % self.handles.len());
                    self.vfs.release(handle);
                }
            }
            Operation::List(dir, piece) => self.list(dir, piece),
            Operation::Forget(node) => self.forget(node),
        }
    }

    fn link(&mut self, file: usize, dir: usize, name: Name) {
        let (Some(id), dir) = (self.known_file(file), self.known_dir(dir)) else { return };
        if !self.names.values().any(|known| *known == id) {
            return;
        }
        let expected = match self.entry(dir, name) {
            Ok(_) => Err(ErrorKind::AlreadyExists),
            Err(_) if self.is_removed(dir) => Err(ErrorKind::StaleHandle),
            Err(_) => Ok(id),
        };
        let linked = now(self.vfs.link(self.ino(id), self.ino(dir), name.as_bytes()));
        if expected.is_ok() {
            self.set(dir, name, Some(id));
            self.count_names(id, 1);
        }
        self.agree(dir, name, expected, linked);
    }

    fn rename(&mut self, from: (Id, Name), to: (Id, Name), mode: RenameMode) {
        let expected = self.may_rename(from, to, mode);
        let ((dir, name), (new_dir, new_name)) = (from, to);
        let (name_bytes, new_name_bytes) = (name.as_bytes(), new_name.as_bytes());
        let renamed = now(self.vfs.rename(
            self.ino(dir),
            name_bytes,
            self.ino(new_dir),
            new_name_bytes,
            mode,
        ));
        assert_eq!(renamed.is_ok(), expected, "{from:?} to {to:?}: {renamed:?}");
        let (moved, target) = (self.entry(dir, name), self.entry(new_dir, new_name));
        if !expected || moved == target {
            return;
        }
        let (known, known_target) = (self.names.remove(&from), self.names.remove(&to));
        self.set(new_dir, new_name, moved.ok());
        if mode == RenameMode::Exchange {
            self.set(dir, name, target.ok());
            self.names.extend(known_target.map(|id| (from, id)));
        } else {
            self.set(dir, name, None);
            if let Ok(target) = target {
                self.count_names(target, -1);
            }
        }
        self.names.extend(known.map(|id| (to, id)));
    }

    fn may_rename(&self, from: (Id, Name), to: (Id, Name), mode: RenameMode) -> bool {
        let (Ok(moved), target) = (self.entry(from.0, from.1), self.entry(to.0, to.1)) else {
            return false;
        };
        if self.is_removed(to.0) || self.is_above(moved, to.0) {
            return false;
        }
        let Ok(target) = target else { return mode != RenameMode::Exchange };
        match mode {
            RenameMode::NoReplace => false,
            RenameMode::Exchange => !self.is_above(target, from.0),
            RenameMode::Replace if moved == target => true,
            RenameMode::Replace => match (&self.files[moved], &self.files[target]) {
                (File::Bytes { .. }, File::Bytes { .. }) => true,
                (File::Dir { .. }, File::Dir { entries, .. }) => entries.is_empty(),
                _ => false,
            },
        }
    }

    fn list(&mut self, dir: usize, piece: usize) {
        let dir = self.known_dir(dir);
        let handle = self.vfs.open_dir(self.ino(dir));
        let (mut offset, mut listed) = (0, Vec::new());
        loop {
            let mut room = piece + 1;
            let before = offset;
            let done = now(self.vfs.read_dir(handle, offset, true, |entry| {
                if room == 0 {
                    return true;
                }
                room -= 1;
                offset = entry.next_offset;
                listed.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.ino));
                false
            }));
            done.unwrap();
            if offset == before {
                break;
            }
        }
        self.vfs.release_dir(handle);
        assert_eq!((listed[0].0.as_str(), listed[0].1), (".", self.ino(dir)));
        assert_eq!(listed[1].0, "..");
        let entries = match &self.files[dir] {
            File::Dir { removed: false, entries } => entries.clone(),
            _ => BTreeMap::new(),
        };
        let names: Vec<_> = listed[2..].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, entries.keys().copied().collect::<Vec<_>>());
        for ((name, id), (_, ino)) in entries.iter().zip(&listed[2..]) {
            self.told(dir, name, *id, *ino);
        }
    }

    /// Forgets a node as a kernel may: nothing of it is open and nothing known lies in it.
    fn forget(&mut self, node: usize) {
        let ids: Vec<_> = self.known.keys().copied().collect();
        let id = ids[node % ids.len()];
        let open = self.handles.iter().any(|(_, open)| *open == id);
        if id == 0 || open || self.names.keys().any(|(dir, _)| *dir == id) {
            return;
        }
        if let Some((ino, count)) = self.known.remove(&id) {
            self.vfs.forget(ino, count);
            self.names.retain(|_, known| *known != id);
        }
    }

    /// Compares what an operation found or made with what was expected.
    fn agree(
        &mut self,
        dir: Id,
        name: Name,
        expected: Result<Id, ErrorKind>,
        found: Result<Known>,
    ) {
        match (expected, found) {
            (Ok(id), Ok(known)) => self.told(dir, name, id, known.ino),
            (Err(kind), Err(error)) => assert_eq!(kind, error.kind(), "{error:?}"),
            (expected, found) => panic!("expected {expected:?}, found {found:?}"),
        }
    }

    /// The kernel was told of a file by a name.
    fn told(&mut self, dir: Id, name: Name, id: Id, ino: u64) {
        assert_eq!(*self.numbers.entry(ino).or_insert(id), id, "number {ino} was another file's");
        let (known, count) = self.known.entry(id).or_insert((ino, 0));
        assert_eq!(*known, ino, "a known file got another number");
        *count += 1;
        self.names.insert((dir, name), id);
    }

    fn removed(
        &mut self,
        dir: Id,
        name: Name,
        expected: Result<Id, ErrorKind>,
        removed: Result<()>,
    ) {
        match (expected, removed) {
            (Ok(id), Ok(())) => {
                self.set(dir, name, None);
                self.names.remove(&(dir, name));
                self.count_names(id, -1);
            }
            (Err(kind), Err(error)) => assert_eq!(kind, error.kind(), "{error:?}"),
            (expected, removed) => panic!("expected {expected:?}, found {removed:?}"),
        }
    }

    /// What each known number says of its file.
    fn check(&self) {
        for (id, (ino, _)) in &self.known {
            let said = now(self.vfs.stat(*ino, None));
            if !self.is_reachable(*id) {
                continue;
            }
            let attr = said.unwrap();
            match &self.files[*id] {
                File::Dir { .. } => assert!(attr.is_dir()),
                File::Bytes { bytes, names } => {
                    assert_eq!((attr.size, attr.nlink), (bytes.len() as u64, *names));
                }
            }
        }
        for (handle, id) in &self.handles {
            let File::Bytes { bytes, .. } = &self.files[*id] else { unreachable!() };
            assert_eq!(now(self.vfs.read(*handle, 0, 1000)).unwrap(), bytes);
        }
    }

    fn finish(mut self) {
        for (handle, _) in std::mem::take(&mut self.handles) {
            self.vfs.release(handle);
        }
        for (id, (ino, count)) in std::mem::take(&mut self.known) {
            if id != 0 {
                self.vfs.forget(ino, count);
            }
        }
        assert_eq!(self.vfs.known_nodes(), 1, "something isn't forgotten");
    }

    fn ino(&self, id: Id) -> u64 {
        self.known[&id].0
    }

    /// Whether a kernel that knows the file can still get at it by number.
    fn is_reachable(&self, id: Id) -> bool {
        id == 0
            || self.names.values().any(|known| *known == id)
            || self.handles.iter().any(|(_, open)| *open == id)
    }

    fn is_removed(&self, id: Id) -> bool {
        matches!(self.files[id], File::Dir { removed: true, .. })
    }

    fn is_above(&self, above: Id, id: Id) -> bool {
        above == id
            || match &self.files[above] {
                File::Bytes { .. } => false,
                File::Dir { entries, .. } => {
                    entries.values().any(|below| self.is_above(*below, id))
                }
            }
    }

    fn known_dir(&self, index: usize) -> Id {
        let is_dir = |id: &Id| matches!(self.files[*id], File::Dir { .. });
        let dirs: Vec<_> = self.known.keys().copied().filter(is_dir).collect();
        dirs[index % dirs.len()]
    }

    fn known_file(&self, index: usize) -> Option<Id> {
        let is_file = |id: &Id| matches!(self.files[*id], File::Bytes { .. });
        choose(&self.known.keys().copied().filter(is_file).collect::<Vec<_>>(), index)
    }

    fn entry(&self, dir: Id, name: Name) -> Result<Id, ErrorKind> {
        match &self.files[dir] {
            File::Dir { entries, removed: false } => {
                entries.get(name).copied().ok_or(ErrorKind::NotFound)
            }
            _ => Err(ErrorKind::StaleHandle),
        }
    }

    fn add(&mut self, dir: Id, name: Name, file: File) -> Result<Id, ErrorKind> {
        if self.is_removed(dir) {
            return Err(ErrorKind::StaleHandle);
        }
        if self.entry(dir, name).is_ok() {
            return Err(ErrorKind::AlreadyExists);
        }
        self.files.push(file);
        let id = self.files.len() - 1;
        self.set(dir, name, Some(id));
        Ok(id)
    }

    fn set(&mut self, dir: Id, name: Name, id: Option<Id>) {
        let File::Dir { entries, .. } = &mut self.files[dir] else { unreachable!() };
        match id {
            Some(id) => entries.insert(name, id),
            None => entries.remove(name),
        };
    }

    fn count_names(&mut self, id: Id, change: i32) {
        match &mut self.files[id] {
            File::Bytes { names, .. } => *names = names.saturating_add_signed(change),
            File::Dir { removed, .. } => *removed = true,
        }
    }
}

const NEW: NewNode = NewNode { mode: 0o644, owner: Owner { uid: 0, gid: 0 } };

/// The result of an operation on a tree in memory, which never waits.
fn now<T>(operation: impl Future<Output = T>) -> T {
    operation.now_or_never().expect("a tree in memory never waits")
}

fn choose<T: Copy>(all: &[T], index: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[index % all.len()])
}

fn name() -> impl Strategy<Value = Name> {
    prop::sample::select(vec!["a", "b", "c", "d"])
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{
        Create, Forget, Link, List, Lookup, MakeDir, Open, Release, RemoveDir, Rename, Truncate,
        Unlink, Write,
    };
    let n = 0..16_usize;
    let mode = prop::sample::select(vec![
        RenameMode::Replace,
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    prop_oneof![
        3 => (n.clone(), name()).prop_map(|(d, name)| Lookup(d, name)),
        4 => (n.clone(), name()).prop_map(|(d, name)| Create(d, name)),
        4 => (n.clone(), name()).prop_map(|(d, name)| MakeDir(d, name)),
        3 => (n.clone(), n.clone(), name()).prop_map(|(f, d, name)| Link(f, d, name)),
        3 => (n.clone(), name()).prop_map(|(d, name)| Unlink(d, name)),
        2 => (n.clone(), name()).prop_map(|(d, name)| RemoveDir(d, name)),
        6 => (n.clone(), name(), n.clone(), name(), mode)
            .prop_map(|(d, name, e, new_name, mode)| Rename(d, name, e, new_name, mode)),
        2 => n.clone().prop_map(Open),
        2 => (n.clone(), 0..9_u8, 0..9_u8).prop_map(|(h, offset, len)| Write(h, offset, len)),
        1 => (n.clone(), 0..9_u8).prop_map(|(f, size)| Truncate(f, size)),
        2 => n.clone().prop_map(Release),
        2 => (n.clone(), 0..4_usize).prop_map(|(d, piece)| List(d, piece)),
        3 => n.prop_map(Forget),
    ]
}

/// rename(2) does nothing then, also when the first name was forgotten.
#[test]
fn a_rename_from_one_name_of_a_file_to_another_keeps_both() {
    let mut model = Model::new();
    let operations = [
        Operation::Create(0, "a"),
        Operation::Link(0, 0, "d"),
        Operation::Release(0),
        Operation::Forget(1),
        Operation::Lookup(0, "d"),
        Operation::Rename(0, "a", 0, "d", RenameMode::Replace),
    ];
    for operation in &operations {
        model.run(operation);
        model.check();
    }
    model.finish();
}

proptest! {
    // More with `PROPTEST_CASES`.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(400),
        ..ProptestConfig::default()
    })]

    #[test]
    fn numbers_and_handles_are_what_a_kernel_expects(
        operations in prop::collection::vec(operation(), 1..80)
    ) {
        let mut model = Model::new();
        for operation in &operations {
            model.run(operation);
            model.check();
        }
        model.finish();
    }
}
