"""How a tree lies in a database: records at one transaction, their shapes, and from bytes to nodes and back."""
