from ._directory_entry import DirectoryEntry as DirectoryEntry, EntryStat as EntryStat
from ._store import Store as Store, StoredPayload as StoredPayload
from .archive import Archive as Archive
from .directory import DirectoryStore as DirectoryStore
from .lmdb import LmdbStore as LmdbStore
from .loading import shuffled as shuffled, token_batches as token_batches
