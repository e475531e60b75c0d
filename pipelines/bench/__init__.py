"""`handful benchmark`: methods x scenes x views x seeds from one file.

plan.py reads the file, material.py loads what a job works on, work.py does one job, worker.py is the process it runs in, runner.py runs
many (ray_runner.py on several machines), store.py keeps results, stats.py and compare.py compare them, page.py shows them.
"""
