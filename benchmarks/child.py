"""A process of its own: calls the function that comes in at standard input, pickled, and gives back what it returns."""

import pickle
import sys

if __name__ == "__main__":
    function, arguments = pickle.load(sys.stdin.buffer)
    pickle.dump(function(*arguments), sys.stdout.buffer)
