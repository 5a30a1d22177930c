-- {schema} is the quoted name of the schema.

-- Whose store this is, in one row.
CREATE TABLE {schema}.store (
	one      boolean PRIMARY KEY DEFAULT true CHECK (one),
	identity text    NOT NULL,
	format   integer NOT NULL -- how many migrations were done
);

-- write is the id of the write that left the record so, 16 random bytes.
CREATE TABLE {schema}.records (
	name   text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[0-9A-Za-z_-]{1,80}$'),
	write  bytea NOT NULL CHECK (octet_length(write) = 16),
	record bytea NOT NULL CHECK (octet_length(record) <= 1048576)
);

-- Tells those who watch of every change, whoever makes it. The empty name is: any
-- may have changed.
CREATE FUNCTION {schema}.tell() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	IF TG_OP = 'TRUNCATE' THEN
		PERFORM pg_notify('keygate_' || TG_TABLE_SCHEMA, '');
		RETURN NULL;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		PERFORM pg_notify('keygate_' || TG_TABLE_SCHEMA, OLD.name);
	END IF;
	IF TG_OP <> 'DELETE' THEN
		PERFORM pg_notify('keygate_' || TG_TABLE_SCHEMA, NEW.name);
	END IF;
	RETURN NULL;
END $$;

CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON {schema}.records FOR EACH ROW EXECUTE FUNCTION {schema}.tell();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON {schema}.records FOR EACH STATEMENT EXECUTE FUNCTION {schema}.tell();
-- Also where a restore has switched triggers off.
ALTER TABLE {schema}.records ENABLE ALWAYS TRIGGER tell;
ALTER TABLE {schema}.records ENABLE ALWAYS TRIGGER tell_truncate;
