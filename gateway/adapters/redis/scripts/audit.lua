-- Shared by the steps that change what was agreed: the audit log. Each entry's digest covers the one before it, and goes into
-- the journal too, whose files are chained outside of the store: an entry that was changed or taken out is found.
-- An entry is the text `<number> <time> <body>`; the body is JSON, written by the caller.

-- The last entry of a stream whose entries carry numbers of ours, and its number; nil and 0 where there is none.
local function last_entry(stream)
  local last = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if not last then return nil, 0 end
  return last[2], tonumber(string.match(last[1], '^0%-(%d+)$') or fail('corrupt: an entry that is none of ours'))
end

-- The digest of the log's last entry, and the number of the next. It reads all that an entry could fail on.
local function last_audited(log, journal_key)
  last_entry(journal_key)
  local entry, number = last_entry(log)
  if entry and not entry[4] then fail('corrupt: audit log') end
  return entry and entry[4] or '', number + 1
end

-- The first of a step's writes: where the log has lost its end, its numbers are taken, and nothing is written.
local function audit(log, journal_key, now, org, body, before, number)
  local digest = redis.sha1hex(before .. ' ' .. digits(number) .. ' ' .. digits(now) .. ' ' .. body)
  call('XADD', log, '0-' .. digits(number), 'e', digits(now) .. ' ' .. body, 'd', digest)
  journal(journal_key, 'audit', now, org, 'audit:' .. digits(number), '0 0 0 0 0', ' digest=' .. digest)
end
