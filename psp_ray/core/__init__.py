"""What every room stands on: records, errors, noise, threads, files. No torch, no ray."""
