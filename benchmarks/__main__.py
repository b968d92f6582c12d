"""`make bench`."""

from benchmarks.measurements import main

if __name__ == "__main__":
    main()
