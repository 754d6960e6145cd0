//! Python libraries that read in their own ways: through a mounted bucket they find what they find
//! in a local directory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use atelier::cache::BlockCache;
use atelier::object::memory::MemoryStore;
use atelier::object::{ObjectStore as _, PutMode};
use atelier::tree::bucket::BucketTree;

use crate::support::mounted::Mounted;
use crate::support::program;

/// Makes a file for each library in the directory that is named.
const MAKE: &str = r"
import os, sys, zipfile
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, h5py
from safetensors.numpy import save_file
os.chdir(sys.argv[1])
noise = np.random.default_rng(7)
rows = 200_000
columns = {f'c{n}': noise.standard_normal(rows) for n in range(8)}
columns['id'] = np.arange(rows)
pq.write_table(pa.table(columns), 'table.parquet', row_group_size=20_000)
save_file({f'w{n}': noise.standard_normal((256, 512)).astype('f4') for n in range(8)},
          'model.safetensors')
np.save('array.npy', noise.standard_normal((3000, 400)))
with zipfile.ZipFile('files.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    for n in range(300):
        archive.writestr(f'd/{n}.bin', noise.bytes(9000))
with h5py.File('data.h5', 'w') as file:
    file.create_dataset('x', data=noise.standard_normal((2000, 300)), chunks=(100, 300))
";

/// Reads a part of each file, here and there, and compares.
const COMPARE: &str = r"
import sys, zipfile
import numpy as np, pyarrow.parquet as pq, h5py, duckdb
from safetensors import safe_open
def parquet(dir):
    file = pq.ParquetFile(f'{dir}/table.parquet')
    part = file.read_row_group(6, columns=['c3', 'id']).to_pandas()
    return [part['c3'].to_numpy(), part['id'].to_numpy(), file.read(columns=['c7'])['c7'].to_numpy()]
def safetensors(dir):
    with safe_open(f'{dir}/model.safetensors', 'np') as file:
        return [file.get_tensor('w5'), file.get_slice('w2')[10:20, 3:9]]
def memmap(dir):
    array = np.load(f'{dir}/array.npy', mmap_mode='r')
    return [array[2999], array[::301, 7], array[5:9], np.asarray(array).sum()]
def zip(dir):
    with zipfile.ZipFile(f'{dir}/files.zip') as archive:
        assert archive.testzip() is None
        return [np.frombuffer(archive.read(f'd/{n}.bin'), 'u1') for n in (299, 0, 150)]
def hdf5(dir):
    with h5py.File(f'{dir}/data.h5', 'r') as file:
        return [file['x'][1999], file['x'][::500, 2], file['x'][700:760]]
def sql(dir):
    query = f'''SELECT count(*), sum(id), max(c2) FROM '{dir}/table.parquet' WHERE id % 7 = 3'''
    return [np.array(duckdb.sql(query).fetchall()[0])]
for library in (parquet, safetensors, memmap, zip, hdf5, sql):
    local, mounted = library(sys.argv[1]), library(sys.argv[2])
    assert len(local) == len(mounted)
    for ours, theirs in __builtins__.zip(local, mounted):
        assert np.array_equal(ours, theirs), library.__name__
    print(library.__name__)
";

fn python(program: &str, arguments: &[&Path]) -> String {
    let mut command = Command::new(program::find("python"));
    let output = command.args(["-c", program]).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn libraries_read_from_a_bucket_what_they_read_from_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    python(MAKE, &[dir.path()]);
    let mounted = Mounted::new(async {
        let store = MemoryStore::new();
        for entry in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
            let key = entry.file_name().into_string().unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            store.put(&key, bytes.into(), PutMode::Overwrite).await.unwrap();
        }
        let cache = Arc::new(BlockCache::new(8 << 20, Arc::default()));
        BucketTree::new(Arc::new(store), cache, "libraries", Duration::from_secs(1))
    });
    let read = python(COMPARE, &[dir.path(), &mounted.path()]);
    let all = ["parquet", "safetensors", "memmap", "zip", "hdf5", "sql"];
    assert_eq!(read.lines().collect::<Vec<_>>(), all);
}
