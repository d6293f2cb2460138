# The public names of the stores.
from .archive import Archive as Archive
from .directory import DirectoryEntry as DirectoryEntry, DirectoryStore as DirectoryStore, EntryStat as EntryStat
from .lmdb import LmdbStore as LmdbStore
from .loading import shuffled as shuffled, token_batches as token_batches
from .protocol import Store as Store, StoredPayload as StoredPayload
