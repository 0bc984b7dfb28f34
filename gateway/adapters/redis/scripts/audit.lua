-- Shared by the steps that change what was agreed: the audit log. Each entry's digest covers the one before it, and goes into
-- the journal too, whose files are chained outside of the store: an entry that was changed or taken out is found.
-- An entry is the text `<number> <time> <body>`; the body is JSON, written by the caller.

local function audit(log, journal_key, now, org, body)
  local last = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local before, number = '', 1
  if last then
    before, number = last[2][4], tonumber(string.match(last[1], '-(%d+)$')) + 1
  end
  local digest = redis.sha1hex(before .. ' ' .. digits(number) .. ' ' .. digits(now) .. ' ' .. body)
  call('XADD', log, '0-' .. digits(number), 'e', digits(now) .. ' ' .. body, 'd', digest)
  journal(journal_key, 'audit', now, org, 'audit:' .. digits(number), '0 0 0 0 0', ' digest=' .. digest)
end
