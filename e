error: unexpected argument 'extra' found

Usage: fieldmedic simulate [OPTIONS] [SCENARIO]

For more information, try '--help'.
