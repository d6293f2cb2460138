"""From records to tables: rows, columns of Arrow, and times as numpy has them."""
