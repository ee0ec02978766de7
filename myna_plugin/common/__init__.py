"""What knows nothing of music: files, threads, processes, devices, errors, plug-ins."""
