tables = None
