# The public names of the stores.
from .archive import Archive as Archive
from .archive.loading import token_batches as token_batches
from .codecs import Codec as Codec, as_codec as as_codec
from .directory import DirectoryEntry as DirectoryEntry, DirectoryStore as DirectoryStore, EntryStat as EntryStat
from .lmdb import LmdbStore as LmdbStore
from .protocol import (
    Item as Item,
    Store as Store,
    StoredPayload as StoredPayload,
    StoredRecord as StoredRecord,
    Writer as Writer,
)
from .shuffling import shuffled as shuffled
